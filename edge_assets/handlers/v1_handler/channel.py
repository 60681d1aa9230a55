"""Whole JSON messages between the component and the function's process, over a pair of sockets."""

import json
import threading
from multiprocessing.connection import Connection
from typing import Any

#: A message is an event or a publication of at most 128 kB in base64, and a little around it.
MESSAGE_BYTES = 1 << 20


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
