"""The Greengrass IPC, by the client of the AWS IoT Device SDK."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from awsiot import greengrasscoreipc
from awsiot.eventstreamrpc import AccessDeniedError, LifecycleHandler
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import (
    QOS,
    BinaryMessage,
    GetConfigurationRequest,
    PublishMessage,
    PublishToIoTCoreRequest,
    PublishToTopicRequest,
    ReportedLifecycleState,
    ResourceNotFoundError,
    ServiceError,
    UnauthorizedError,
    UpdateStateRequest,
)

from edge_component.ipc import Connect, HungUpError, IpcClient, IpcError, RefusedError, Side

log = logging.getLogger(__name__)

CALL_LIMIT_S = 10.0
CLOSE_LIMIT_S = 2.0
#: Nucleus lite takes the old settings away before it writes the new ones: so long they may be missing.
SETTINGS_LIMIT_S = 2.0
_SETTINGS_PAUSE_S = 0.1
#: A device that hangs up so often in a row will not take this process any more.
HANG_UPS = 5
REFUSALS = (UnauthorizedError, ResourceNotFoundError, AccessDeniedError)
#: A component that only nucleus lite has.
LITE = "aws.greengrass.NucleusLite"
#: The longest message of its IPC: a longer one would end the connection, and again after each reconnect.
LITE_FRAME_BYTES = 10_012
#: What of it PublishToTopic takes besides the topic and the payload in base64 (eight headers, JSON).
_LOCAL_OVERHEAD_BYTES = 280

Answer = TypeVar("Answer")


#: The key of which settings name every entry. A device keeps those of a former recipe's default: a model that was taken
#: out would be served on, on topics that nothing allows any more.
LISTED = "models"


@dataclass(frozen=True)
class SharedSettings:
    """Where a component's settings are: in another one's configuration, so that a change of them starts nothing anew.

    Nucleus lite stops a component whose configuration a deployment sends, whether it differs or not.

    Args:
        carrier: The component whose configuration has them, at `settings.<component>`.
        component: Whose settings.
    """

    carrier: str
    component: str

    @classmethod
    def beside(cls, pointer: Path | None, component: str | None) -> "SharedSettings | None":
        """Name those of a component in the configuration of its runtime component.

        Args:
            pointer: The runtime component's pointer file, in its work folder.
            component: The component; None where it has its own configuration only.
        """
        return cls(pointer.parent.name, component) if pointer is not None and component else None


class _Lifecycle(LifecycleHandler):  # type: ignore[misc]
    """Remembers that the connection ended, and tells once."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self.lost = False
        self.closing = False

    def on_disconnect(self, reason: Exception | None) -> None:
        self.end(f"disconnected: {reason}")

    def on_error(self, error: Exception) -> bool:
        log.warning("connection to the device failed: %s", error)
        return True  # close the connection; on_disconnect follows

    def end(self, reason: str) -> None:
        if self.lost or self.closing:
            return
        self.lost = True
        log.warning("connection to the device lost: %s", reason)
        self._on_lost()


class _Subscription:
    """A stream of events of the SDK's client."""

    def __init__(self, lifecycle: _Lifecycle, what: str) -> None:
        self._lifecycle = lifecycle
        self._what = what
        self._active = False
        self._ended = False
        self._operation: Any = None

    def open(self, subscribe: Callable[..., tuple["Future[Any]", Any]], **request: Any) -> None:
        """Subscribe by a call of the SDK's client."""
        handlers = {"on_stream_error": self._on_stream_error, "on_stream_closed": self._on_stream_closed}
        future, self._operation = _begun(self._what, lambda: subscribe(**request, **handlers))
        try:
            _result(self._what, future)
        except IpcError:
            # An answer that comes too late would open a stream that nobody knows.
            self.close()
            raise
        # Only now: a subscription that is refused is closed too, and says nothing about the connection.
        self._active = True
        if self._ended:
            self._on_stream_closed()

    def close(self) -> None:
        """End it; see `Subscription.close`."""
        self._active = False
        try:
            self._operation.close().result(CLOSE_LIMIT_S)
        except Exception as exc:  # noqa: BLE001 - it ends with the connection at the latest
            log.debug("closing %s: %s", self._what, exc)

    def _on_stream_error(self, error: Exception) -> bool:
        log.warning("%s failed: %s", self._what, error)
        # Close the stream; _on_stream_closed follows. But a message that cannot be read, such as JSON nested without
        # end, costs itself alone.
        return not isinstance(error, ValueError | RecursionError)

    def _on_stream_closed(self) -> None:
        self._ended = True
        # A stream that the device ended is as bad as a lost connection, and is healed in the same way.
        if self._active:
            self._lifecycle.end(f"{self._what} was ended by the device")


class _TopicSubscription:
    """A topic's messages, by a stream of the device that is replaced when it may have gone deaf; see `renew`."""

    def __init__(self, make: Callable[[Callable[[Any], None]], _Subscription], take: Callable[[Any], None]) -> None:
        self._make = make
        self._take = take
        self._stream: _Subscription | None = None
        self.heard_at = time.monotonic()
        self.is_open = True
        self.problem = ""

    @property
    def waits(self) -> bool:
        """Whether the device has not taken it yet."""
        return self._stream is None

    def close(self) -> None:
        """End it; see `Subscription.close`."""
        self.is_open = False
        if self._stream is not None:
            self._stream.close()

    def replace(self) -> None:
        """Subscribe anew, then end the stream before: nothing is missed, and what comes meanwhile may come twice."""
        before, self._stream = self._stream, self._make(self._on_event)
        self.heard_at = time.monotonic()
        if before is not None:
            before.close()

    def _on_event(self, event: Any) -> None:
        self.heard_at = time.monotonic()
        self._take(event)


class _Publication:
    """A message on its way; see `Publication`."""

    def __init__(self, what: str, future: "Future[Any]") -> None:
        self._what = what
        self._future = future
        self._deadline = time.monotonic() + CALL_LIMIT_S

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; see `Publication.wait`."""
        try:
            self._future.exception(timeout_s)
        except TimeoutError:
            if time.monotonic() < self._deadline:
                return False
        except CancelledError:
            log.debug("%s is cancelled", self._what)
        _result(self._what, self._future, limit_s=0)
        return True


class _Calls:
    """Calls with one answer, whose streams are ended.

    Nucleus lite leaves the stream of an answer open, and the SDK keeps 5 to 10 kB for each. So a call's answer ends the
    stream of the answer before: one that the device has ended itself is known to be by then, and nothing is sent.
    """

    def __init__(self) -> None:
        self._answered: Any = None

    def begin(self, operation: Any, request: Any) -> "Future[Any]":
        """Call.

        Args:
            operation: A new one of the SDK's client.
            request: Its request.

        Returns:
            The answer to come.
        """
        answer: Future[Any] = operation.get_response()

        def written(writing: "Future[Any]") -> None:
            failure = writing.exception()
            if failure is not None and not answer.done():
                answer.set_exception(failure)

        # Answers come in the connection's thread, one after the other.
        answer.add_done_callback(lambda _answer: self._end_before(operation))
        operation.activate(request).add_done_callback(written)
        return answer

    def _end_before(self, operation: Any) -> None:
        before, self._answered = self._answered, operation
        if before is not None:
            before.close()


class _LocalPublisher:
    """Publishes to the device's own components; see `IpcClient.local`."""

    def __init__(self, publish: Callable[[str, bytes], _Publication], is_lite: Callable[[], bool]) -> None:
        self._publish = publish
        self._asks_lite = is_lite
        self._is_lite: bool | None = None

    def publish(self, topic: str, payload: bytes) -> _Publication:
        """Publish a message; see `Publisher.publish`."""
        room = (LITE_FRAME_BYTES - _LOCAL_OVERHEAD_BYTES - len(topic.encode())) // 4 * 3
        if len(payload) > room:
            if self._is_lite is None:
                self._is_lite = self._asks_lite()
            if self._is_lite:
                raise RefusedError(
                    f"a local message on {topic} must have at most {room} bytes on nucleus lite, got {len(payload)}: "
                    "publish it in parts, or write a file and publish its name"
                )
        return self._publish(topic, payload)


def _cloud_payload(event: Any) -> bytes:
    payload: bytes | None = event.message.payload
    return payload or b""


def _local_payload(event: Any) -> bytes:
    """A component may send bytes or a JSON object; either is what a client in the cloud would have sent."""
    if event.binary_message is not None:
        content: bytes | None = event.binary_message.message
        return content or b""
    message = event.json_message.message if event.json_message is not None else None
    return json.dumps(message, separators=(",", ":")).encode()


class GreengrassIpc:
    """One connection; see `IpcClient`.

    Args:
        client: A connected client whose callbacks run in its network thread.
        lifecycle: Told by the SDK when the connection ends.
        settings: What wins over the component's own configuration; nothing by default.
    """

    def __init__(
        self, client: GreengrassCoreIPCClientV2, lifecycle: _Lifecycle, settings: SharedSettings | None = None
    ) -> None:
        self._client = client
        self._lifecycle = lifecycle
        self._settings = settings
        self._calls = _Calls()
        self._topics: dict[tuple[Side, str], _TopicSubscription] = {}
        self.local = _LocalPublisher(self._publish_locally, self._is_lite)

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._lifecycle.lost

    @property
    def unheard(self) -> list[str]:
        """Topics of the cloud whose subscriptions wait; see `IpcClient.unheard`."""
        return [topic for (_, topic), each in list(self._topics.items()) if each.is_open and each.waits]

    def configuration(self) -> object:
        """Read the component's configuration; see `IpcClient.configuration`."""
        what = "reading the configuration"
        own: object = _result(what, _begun(what, self._configuration)).value
        return own if self._settings is None else merged(own, self._shared(self._settings), listed=LISTED)

    def configuration_of(self, component: str) -> object:
        """Read another component's configuration; see `IpcClient.configuration_of`."""
        what = f"reading the configuration of {component}"
        found: object = _result(what, _begun(what, lambda: self._configuration(component))).value
        return found

    def watch_configuration(self, on_change: Callable[[], None]) -> None:
        """Be told of changes; see `IpcClient.watch_configuration`."""
        subscribe = self._client.subscribe_to_configuration_update_async
        own = _Subscription(self._lifecycle, "watching the configuration")
        own.open(subscribe, on_stream_event=lambda _event: on_change())
        if self._settings is None:
            return
        carrier = self._settings.carrier
        shared = _Subscription(self._lifecycle, f"watching the configuration of {carrier}")
        try:
            # As a whole: nucleus lite forgets who watches a key that a reset takes away.
            shared.open(subscribe, component_name=carrier, on_stream_event=lambda _event: on_change())
        except RefusedError as exc:
            raise IpcError(f"{exc}: it is not deployed yet") from exc

    def subscribe(self, topic: str, on_message: Callable[[bytes], None], side: Side = Side.CLOUD) -> _TopicSubscription:
        """Receive the messages of a topic; see `IpcClient.subscribe`."""
        what = f"subscribing to {topic}" if side is Side.CLOUD else f"subscribing to {topic} on the device"

        def make(on_event: Callable[[Any], None]) -> _Subscription:
            stream = _Subscription(self._lifecycle, what)
            if side is Side.CLOUD:
                subscribe = self._client.subscribe_to_iot_core_async
                stream.open(subscribe, topic_name=topic, qos=QOS.AT_LEAST_ONCE, on_stream_event=on_event)
            else:
                stream.open(self._client.subscribe_to_topic_async, topic=topic, on_stream_event=on_event)
            return stream

        read = _cloud_payload if side is Side.CLOUD else _local_payload
        subscription = _TopicSubscription(make, lambda event: on_message(read(event)))
        try:
            # Where one waits for the cloud, the next one would: each may take 10 s to fail.
            if side is Side.LOCAL or not any(each.waits for each in self._topics.values() if each.is_open):
                subscription.replace()
        except IpcError as exc:
            # What the device says, or does not say in time, while its line is cut; a call that is refused is no such.
            if side is Side.LOCAL or self.lost or not isinstance(exc.__cause__, ServiceError | TimeoutError):
                raise
            subscription.problem = str(exc)
            log.warning("%s: it waits for the cloud, and is tried again", exc)
        self._topics[side, topic] = subscription
        return subscription

    def renew(self, silent_s: float) -> None:
        """Subscribe anew where the device may have gone deaf; see `IpcClient.renew`."""
        for side in (Side.LOCAL, Side.CLOUD):
            topics = {key: each for key, each in self._topics.items() if key[0] is side and each.is_open}
            heard = any(time.monotonic() - each.heard_at < silent_s for each in topics.values() if not each.waits)
            for (_, topic), subscription in topics.items():
                waited = subscription.waits
                if heard and not waited:
                    continue
                try:
                    subscription.replace()
                except IpcError as exc:
                    # The next time, then: the stream that there was is still there.
                    if subscription.problem != str(exc):
                        log.warning("not renewed: %s", exc)
                    subscription.problem = str(exc)
                    if isinstance(exc, RefusedError):
                        continue
                    break
                subscription.problem = ""
                if waited:
                    log.info("subscribed to %s", topic)

    def publish(self, topic: str, payload: bytes) -> "_Publication":
        """Publish a message; see `Publisher.publish`."""
        what = f"publishing on {topic}"
        request = PublishToIoTCoreRequest(topic_name=topic, qos=QOS.AT_LEAST_ONCE, payload=payload)
        new = self._client.client.new_publish_to_iot_core
        return _Publication(what, _begun(what, lambda: self._calls.begin(new(), request)))

    def report_running(self) -> None:
        """Tell that the component serves; see `IpcClient.report_running`."""
        what, request = "reporting the state", UpdateStateRequest(state=ReportedLifecycleState.RUNNING)
        _result(what, _begun(what, lambda: self._calls.begin(self._client.client.new_update_state(), request)))

    def _publish_locally(self, topic: str, payload: bytes) -> "_Publication":
        what = f"publishing on {topic} on the device"
        message = PublishMessage(binary_message=BinaryMessage(message=payload))
        request = PublishToTopicRequest(topic=topic, publish_message=message)
        new = self._client.client.new_publish_to_topic
        return _Publication(what, _begun(what, lambda: self._calls.begin(new(), request)))

    def _is_lite(self) -> bool:
        what = "asking which nucleus this is"
        try:
            _result(what, _begun(what, lambda: self._configuration(LITE)))
        except RefusedError:
            return False
        return True

    def _configuration(self, component: str | None = None) -> "Future[Any]":
        request = GetConfigurationRequest(component_name=component)
        return self._calls.begin(self._client.client.new_get_configuration(), request)

    def _shared(self, settings: SharedSettings) -> object:
        deadline = time.monotonic() + SETTINGS_LIMIT_S
        what = f"reading the settings of {settings.component} from {settings.carrier}"
        while True:
            try:
                found = _result(what, _begun(what, lambda: self._configuration(settings.carrier))).value
            except RefusedError as exc:
                log.debug("%s", exc)
                found = None
            shared = found.get("settings") if isinstance(found, Mapping) else None
            # Written last: without it they are being replaced.
            if isinstance(shared, Mapping) and "revision" in shared:
                return shared.get(settings.component)
            if time.monotonic() >= deadline:
                raise IpcError(f"{what}: it must hold settings with a revision, got {shared!r}")
            time.sleep(_SETTINGS_PAUSE_S)

    def close(self) -> None:
        """End the connection."""
        self._lifecycle.closing = True
        try:
            self._client.close().result(CLOSE_LIMIT_S)
        except Exception as exc:  # noqa: BLE001 - it is gone either way
            log.debug("closing the connection: %s", exc)


def merged(first: object, second: object, *, listed: str = "") -> object:
    """Merge two configurations as a device does: objects key by key, everything else as a whole.

    Args:
        first: The one.
        second: The other, which wins; None changes nothing.
        listed: A key under which the other one names all that there is: what only the first one has there goes.
    """
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return first if second is None else second
    if isinstance(all_there_is := second.get(listed), Mapping) and isinstance(had := first.get(listed), Mapping):
        first = {**first, listed: {key: value for key, value in had.items() if key in all_there_is}}
    return {**first, **{key: merged(first.get(key), value) for key, value in second.items()}}


def connect(on_lost: Callable[[], None], settings: SharedSettings | None = None) -> GreengrassIpc:
    """Connect to the device that started this process; see `Connect`.

    Args:
        on_lost: Called once when the connection ends by itself.
        settings: What wins over the component's own configuration; nothing by default.

    Returns:
        A live connection.

    Raises:
        RefusedError: The device does not know this process.
        HungUpError: The device ended the connection before it was made.
        IpcError: There is no device to connect to within 10 s.
    """
    lifecycle = _Lifecycle(on_lost)
    try:
        connection = greengrasscoreipc.connect(lifecycle_handler=lifecycle, timeout=CALL_LIMIT_S)
    except KeyError as exc:
        raise RefusedError(f"a device must start this process: the environment lacks {exc}") from exc
    except AccessDeniedError as exc:
        raise RefusedError("the device does not know this process: an earlier one has started it") from exc
    except Exception as exc:
        kind = HungUpError if getattr(exc, "name", "") == "AWS_IO_SOCKET_CLOSED" else IpcError
        raise kind(f"connecting to the device: {_text(exc)}") from exc
    # Without an executor the callbacks keep their order; none of ours blocks.
    return GreengrassIpc(GreengrassCoreIPCClientV2(connection, executor=None), lifecycle, settings)


class Connector:
    """Connects, until the device has hung up too often; see `Connect`.

    Args:
        connect: Makes one connection.
    """

    def __init__(self, connect: Connect = connect) -> None:
        self._connect = connect
        self._hang_ups = 0

    def __call__(self, on_lost: Callable[[], None]) -> IpcClient:
        """Connect to the device; raises RefusedError, too, once it has hung up five times in a row."""
        try:
            client = self._connect(on_lost)
        except HungUpError as exc:
            self._hang_ups += 1
            if self._hang_ups < HANG_UPS:
                raise
            raise RefusedError(
                f"the device does not know this process, or has no place for it: it hung up {HANG_UPS} times"
            ) from exc
        self._hang_ups = 0
        return client


def _begun(what: str, begin: Callable[[], Answer]) -> Answer:
    """Begin a call of the SDK, which raises at once where the connection has just ended."""
    try:
        return begin()
    except Exception as exc:
        raise IpcError(f"{what}: {_text(exc)}") from exc


def _result(what: str, future: "Future[Any]", limit_s: float = CALL_LIMIT_S) -> Any:
    try:
        return future.result(limit_s)
    except REFUSALS as exc:
        raise RefusedError(f"{what} is refused: {_text(exc)}") from exc
    except Exception as exc:
        raise IpcError(f"{what}: {_text(exc)}") from exc


def _text(error: Exception) -> str:
    return getattr(error, "message", None) or str(error) or type(error).__name__
