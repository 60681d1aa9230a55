"""An operator's MQTT client: talks to devices over the twin's IoT Core with a temporary certificate of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import paho.mqtt.client as mqtt
from botocore.exceptions import BotoCoreError, ClientError
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from twin import TwinError
from twin.devices.identity import BOUNDED, certificate_authority, discard_certificate, make_certificate
from twin.state import TwinState

_CONNECT_S = 15.0
_ACTIONS = ("iot:Connect", "iot:Publish", "iot:Subscribe", "iot:Receive")

OPERATORS = "twin-operator-"
"""What the names of clients, and of their policies, begin with."""

Json = dict[str, Any]


def _without_delay(_client: mqtt.Client, _userdata: Any, connected: Any) -> None:
    """An acknowledgement followed by a request would wait 40 ms for the peer's delayed ACK (Nagle's algorithm)."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class OperatorClient:
    """A context manager: makes certificate and policy, connects, and takes both away at the end.

    Requests may be made from several threads at once; answers are matched by their `request_id`.
    """

    def __init__(self, state: TwinState) -> None:
        """Prepare; nothing is made or connected before `with`.

        Args:
            state: Of a running twin.
        """
        self._state = state
        self._name = f"{OPERATORS}{secrets.token_hex(4)}"
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self._name, protocol=mqtt.MQTTv311)
        self._cleanup = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._waiting: dict[str, _Answer] = {}
        self._listeners: list[tuple[str, queue.SimpleQueue[Any], bool]] = []
        self._subscribed: dict[str, threading.Event] = {}
        self._pending_subscriptions: dict[int, threading.Event] = {}
        self._connected = threading.Event()
        self._refusal = ""

    def __enter__(self) -> Self:
        """Make the certificate and connect within 15 s.

        Raises:
            TwinError: If that fails; what was made is taken away again.
        """
        try:
            self._connect(_make_identity(self._state, self._name, self._cleanup))
        except (ClientError, BotoCoreError, OSError) as exc:
            self._cleanup.close()
            raise TwinError(
                f"the operator's client must reach the twin at {self._state.gateway_url}, got: {exc}"
            ) from exc
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect and delete certificate and policy; closing twice does nothing."""
        self._cleanup.close()

    @contextlib.contextmanager
    def listen(self, topic: str, *, named: bool = False) -> Iterator[queue.SimpleQueue[Any]]:
        """Receive everything on a topic, or on all that a filter with `+` or `#` fits, in the order of arrival.

        It lasts as long as the block. The queue has payloads, or pairs of topic and payload where they are `named`.

        Raises:
            TwinError: If the broker does not confirm the subscription within 10 s.
        """
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        listener = (topic, heard, named)
        with self._lock:
            self._listeners.append(listener)
        try:
            self.subscribe(topic)
            yield heard
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def request(self, topic: str, payload: Json, response_topic: str, timeout_s: float = 10.0) -> Json:
        """Publish a request and wait for its answer.

        Args:
            topic: Exact topic to publish on, QoS 1.
            payload: The request; a `request_id` is added if it has none.
            response_topic: Exact topic on which the answer comes.
            timeout_s: How long to wait for it.

        Returns:
            The first answer with the same `request_id`.

        Raises:
            TwinError: If none comes in time, or the broker cannot be reached.
        """
        self.subscribe(response_topic)
        request = {"request_id": secrets.token_hex(8), **payload}
        identifier = str(request["request_id"])
        answer = _Answer()
        with self._lock:
            if identifier in self._waiting:
                raise TwinError(f"request_id must be unique among the open requests, got {identifier!r} twice")
            self._waiting[identifier] = answer
        try:
            self.publish(topic, json.dumps(request).encode(), timeout_s=timeout_s)
            if not answer.arrived.wait(timeout_s):
                raise TwinError(f"an answer on {response_topic} must come within {timeout_s} s, got none: {identifier}")
        finally:
            with self._lock:
                del self._waiting[identifier]
        return answer.content

    def publish(self, topic: str, payload: bytes, *, timeout_s: float = 10.0) -> None:
        """Publish bytes as they are, QoS 1, and wait until the broker has them.

        Raises:
            TwinError: If the broker does not confirm in time.
        """
        # While disconnected paho would keep each message and send them all at once later.
        if not self._connected.wait(timeout_s):
            raise TwinError(
                f"the twin's MQTT port {self._state.mqtt_port} must be reached within {timeout_s} s, it was not"
            )
        message = self._client.publish(topic, payload, qos=1)
        try:
            message.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError) as exc:
            raise TwinError(f"a message of {len(payload)} bytes could not be published on {topic}: {exc}") from exc
        if not message.is_published():
            raise TwinError(f"the broker must confirm a message on {topic} within {timeout_s} s, it did not")

    def subscribe(self, topic: str, timeout_s: float = 10.0) -> None:
        """Receive a topic; does nothing if it is received already.

        Raises:
            TwinError: If the broker does not confirm in time.
        """
        with self._lock:
            done = self._subscribed.get(topic)
            if done is None:
                done = self._subscribed[topic] = threading.Event()
                _result, number = self._client.subscribe(topic, qos=1)
                if number is not None:
                    self._pending_subscriptions[number] = done
        if not done.wait(timeout_s):
            with self._lock:
                self._subscribed.pop(topic, None)
            raise TwinError(f"the broker must confirm the subscription to {topic} within {timeout_s} s, it did not")

    def _connect(self, context: ssl.SSLContext) -> None:
        self._client.tls_set_context(context)
        self._client.on_socket_open = _without_delay
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect_timeout = _CONNECT_S
        # By default up to two minutes: the twin is on this machine, and away for seconds.
        self._client.reconnect_delay_set(1, 2)
        self._client.connect("127.0.0.1", self._state.mqtt_port, keepalive=30)
        self._client.loop_start()
        self._cleanup.callback(self._disconnect)
        if not self._connected.wait(_CONNECT_S) or self._refusal:
            reason = self._refusal or f"no answer within {_CONNECT_S:.0f} s"
            raise TwinError(f"the twin's MQTT port {self._state.mqtt_port} must accept the operator, got: {reason}")

    def _disconnect(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        del data, flags, properties
        self._refusal = str(reason) if reason.is_failure else ""
        if not reason.is_failure:
            # After a lost connection the session starts anew.
            with self._lock:
                for topic, done in self._subscribed.items():
                    _result, number = client.subscribe(topic, qos=1)
                    if number is not None:
                        self._pending_subscriptions[number] = done
        self._connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        del client, data, flags, reason, properties
        self._connected.clear()

    def _on_subscribe(self, client: Any, data: Any, number: int, reasons: list[ReasonCode], properties: Any) -> None:
        del client, data, properties
        with self._lock:
            done = self._pending_subscriptions.pop(number, None)
        if done is not None and not any(reason.is_failure for reason in reasons):
            done.set()

    def _on_message(self, client: Any, data: Any, message: mqtt.MQTTMessage) -> None:
        del client, data
        with self._lock:
            for topic, heard, named in self._listeners:
                if topic == message.topic or mqtt.topic_matches_sub(topic, message.topic):
                    payload = bytes(message.payload)
                    heard.put((message.topic, payload) if named else payload)
        try:
            content = json.loads(message.payload)
            identifier = str(content["request_id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        with self._lock:
            answer = self._waiting.get(identifier)
            if answer is not None:
                answer.content = content
                answer.arrived.set()


class _Answer:
    """The place where an answer arrives."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.content: Json = {}


def _make_identity(state: TwinState, name: str, undo: contextlib.ExitStack) -> ssl.SSLContext:
    """Make certificate and policy.

    Args:
        state: Of a running twin.
        name: Of the policy.
        undo: Gets what takes both away again; also of a making that fails half way.

    Returns:
        A client's TLS context that trusts the twin's certificate authority and shows the certificate.

    Raises:
        ClientError, BotoCoreError, OSError: If the twin cannot be reached or refuses.
    """
    iot = boto3.client("iot", config=BOUNDED, **state.client_arguments())
    statement = {"Effect": "Allow", "Action": list(_ACTIONS), "Resource": "*"}
    iot.create_policy(policyName=name, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    undo.callback(_delete_policy, iot, name)
    made = make_certificate(iot, name)
    undo.callback(discard_certificate, iot, made.arn, name)
    context = ssl.create_default_context(cadata=certificate_authority(state.gateway_url))
    with tempfile.TemporaryDirectory(prefix="operator-") as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        certificate.write_text(made.pem)
        key.write_text(made.private_key)
        context.load_cert_chain(certificate, key)
    return context


def _delete_policy(iot: Any, name: str) -> None:
    # The twin may be gone, and with it what would have to be taken away.
    with contextlib.suppress(ClientError, BotoCoreError):
        iot.delete_policy(policyName=name)
