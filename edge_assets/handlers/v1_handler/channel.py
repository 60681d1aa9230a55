"""Between the component and the function's process: whole JSON messages over a pair of sockets, and publications."""

import base64
import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

log = logging.getLogger("greengrasssdk")

#: A message is an event or a publication of at most 128 kB in base64, and a little around it.
MESSAGE_BYTES = 1 << 20
#: The largest message that AWS IoT Core carries.
MQTT_BYTES = 128 * 1024
ALL_OR_EXCEPTION = "AllOrException"
#: How long the component may take to queue a message; it never waits for the network.
ACKNOWLEDGE_LIMIT_S = 30.0


class ChannelClosedError(Exception):
    """The other end is gone."""


class Channel:
    """One end; any thread may send, one receives.

    Args:
        descriptor: A connected socket, owned from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._connection: Connection[Any, Any] = Connection(descriptor)
        self._sending = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message.

        Raises:
            ChannelClosedError: The other end is gone.
            ValueError: The other end would not take it: it is too large.
        """
        content = json.dumps(message).encode()
        if len(content) > MESSAGE_BYTES:
            raise ValueError(f"a message must have at most {MESSAGE_BYTES} bytes as JSON, got {len(content)}")
        try:
            with self._sending:
                self._connection.send_bytes(content)
        except OSError as exc:
            raise ChannelClosedError(str(exc)) from exc

    def receive(self) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            ChannelClosedError: The other end is gone, or sent what is no message.
        """
        try:
            message = json.loads(self._connection.recv_bytes(MESSAGE_BYTES))
        except (OSError, EOFError, ValueError, RecursionError) as exc:
            raise ChannelClosedError(str(exc) or "closed") from exc
        if not isinstance(message, dict):
            raise ChannelClosedError("a message must be an object")
        return message

    def close(self) -> None:
        """End it."""
        self._connection.close()


class NotPublishedError(Exception):
    """The component did not take a message."""


class Publishing:
    """The way out of a function's process, which the shim of greengrasssdk uses.

    It hands messages to the component and waits until it has them; safe for any thread.

    Args:
        send: Sends to the component.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._process = os.getpid()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[threading.Event, list[str | None]]] = {}

    def publish(self, topic: str, payload: bytes, queue_full_policy: str) -> None:
        """Hand over a message.

        Args:
            topic: Where to.
            payload: What.
            queue_full_policy: `AllOrException`: raise when there is no room; else such a message is dropped and logged.

        Raises:
            NotPublishedError: It was not taken.
        """
        if os.getpid() != self._process:
            raise NotPublishedError(
                "a process that the function forked cannot publish, only the function's own can: hand the message back "
                "to it, for instance by multiprocessing.Queue"
            )
        if len(payload) > MQTT_BYTES:
            problem = f"topic {topic[:256]}: a payload must have at most {MQTT_BYTES} bytes, got {len(payload)}"
            if queue_full_policy == ALL_OR_EXCEPTION:
                raise NotPublishedError(problem)
            log.error("publication dropped: %s", problem)
            return
        number, arrived, error = next(self._numbers), threading.Event(), list[str | None]()
        self._waiting[number] = (arrived, error)
        content = base64.b64encode(payload).decode("ascii")
        try:
            self._send({"publish": number, "topic": topic, "payload": content, "policy": queue_full_policy})
            # An object that publishes as the interpreter ends: the thread that takes answers has ended already.
            if sys.is_finalizing():
                return
            if not arrived.wait(ACKNOWLEDGE_LIMIT_S):
                raise NotPublishedError(f"the component did not take a message within {ACKNOWLEDGE_LIMIT_S:.0f} s")
        except ValueError as exc:
            raise NotPublishedError(str(exc)) from exc
        finally:
            del self._waiting[number]
        if error[0] is not None:
            raise NotPublishedError(error[0])

    def acknowledge(self, number: int, error: str | None) -> None:
        """Tell who waits."""
        waiting = self._waiting.get(number)
        if waiting:
            waiting[1].append(error)
            waiting[0].set()


#: Set once, before the function is imported.
current: Publishing | None = None


def publish(topic: str, payload: bytes, queue_full_policy: str) -> None:
    """Publish from the function of this process; see `Publishing.publish`."""
    if current is None:
        raise NotPublishedError("this process runs no function: greengrasssdk works in a handler component only")
    current.publish(topic, payload, queue_full_policy)
