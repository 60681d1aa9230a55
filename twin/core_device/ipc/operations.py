"""What the Greengrass IPC service model says: operations, their events and errors, and what serves them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from nucleus_lite import configuration, ipc

PUBSUB = "aws.greengrass.ipc.pubsub"
MQTT_PROXY = "aws.greengrass.ipc.mqttproxy"

_WILDCARD = re.compile(r"\$\{(.)\}|\*", re.S)
_MQTT_WILDCARD = re.compile(r"\$\{(.)\}|\*|(?:(?<=/)|^)\+(?=/|$)", re.S)


def is_authorized(access_control: Any, service: str, operation: str, resource: str) -> bool:
    """Tell whether one of a component's policies allows an operation on a resource.

    Args:
        access_control: `{service: {policy id: {"operations": [...], "resources": [...]}}}`; anything else allows
            nothing.
        service: `PUBSUB` or `MQTT_PROXY`.
        operation: Full name, such as `aws.greengrass#PublishToTopic`.
        resource: Topic or filter, compared as text.

    Returns:
        True when a policy lists the operation (or `*`) and a resource pattern that covers the resource. In a pattern
        `*` is any text, `${c}` the character c; for the MQTT proxy `+` is one whole level and
        a last `/#` the rest, but not the level before it: nucleus lite refuses `a` where `a/#` is allowed.
    """
    policies = access_control.get(service) if isinstance(access_control, dict) else None
    for policy in policies.values() if isinstance(policies, dict) else ():
        if not isinstance(policy, dict):
            continue
        operations, resources = policy.get("operations") or (), policy.get("resources") or ()
        if not isinstance(operations, list) or not isinstance(resources, list):
            continue
        if "*" not in operations and operation not in operations:
            continue
        patterns = (_pattern(text, service == MQTT_PROXY) for text in resources if isinstance(text, str))
        if any(pattern.fullmatch(resource) for pattern in patterns):
            return True
    return False


def with_thing(access_control: Any, name: str) -> Any:
    """Fill the device's name into access control, as the classic nucleus does since 2.6.0.

    Args:
        access_control: As in the component's configuration.
        name: What stands for `{iot:thingName}`.

    Returns:
        A copy.
    """
    if isinstance(access_control, dict):
        return {key: with_thing(value, name) for key, value in access_control.items()}
    if isinstance(access_control, list):
        return [with_thing(value, name) for value in access_control]
    return access_control.replace("{iot:thingName}", name) if isinstance(access_control, str) else access_control


@lru_cache(maxsize=4096)
def _pattern(resource: str, mqtt: bool) -> re.Pattern[str]:
    rest = ""
    if mqtt and resource == "#":
        resource, rest = "", ".*"
    elif mqtt and resource.endswith("/#"):
        resource, rest = resource[:-2], "/.*"
    expression, at = "", 0
    for wildcard in (_MQTT_WILDCARD if mqtt else _WILDCARD).finditer(resource):
        expression += re.escape(resource[at : wildcard.start()])
        if wildcard[1]:
            expression += re.escape(wildcard[1])
        else:
            expression += ".*" if wildcard[0] == "*" else "[^/#]*"
        at = wildcard.end()
    return re.compile(expression + re.escape(resource[at:]) + rest, re.S)


NAMESPACE = "aws.greengrass#"
_ABSENT = object()
_RECEIVE_MODES = ("RECEIVE_ALL_MESSAGES", "RECEIVE_MESSAGES_FROM_OTHERS")


class IpcError(Exception):
    """An error of the service model, sent to the client.

    Args:
        code: The error's name in the model, such as `ResourceNotFoundError`.
        message: What the client reads.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidRequestError(Exception):
    """A request that the service model does not allow; each operation has its own name for it."""


@dataclass(frozen=True)
class Json:
    """A local message that is a JSON value; a binary one is plain `bytes`."""

    value: Any


Cancel = Callable[[], None]
Message = Json | bytes
_Perform = Callable[["Call"], Awaitable[Any]]


class IpcHandler:
    """What stands behind the socket. Its methods run on the server's event loop and fail with an `IpcError`.

    A handler that inherits from this one refuses the calls that it does not serve itself.
    """

    def component_of(self, token: str) -> str | None:
        """The component that holds the token, or None."""
        raise NotImplementedError

    def access_control(self, component: str) -> Any:
        """The component's `accessControl` configuration; anything but a map allows nothing."""
        raise NotImplementedError

    def get_configuration(self, component: str, key_path: list[str]) -> Any:
        """The value at a key path."""
        raise NotImplementedError

    def update_configuration(self, component: str, key_path: list[str], value: Any, timestamp_ms: int) -> None:
        """Merge a value into the component's own configuration."""
        raise NotImplementedError

    def subscribe_to_configuration_update(
        self, component: str, key_path: list[str], deliver: Callable[[str, list[str]], None]
    ) -> Cancel:
        """Call `deliver(component, key path)` for each changed leaf at or below the key path."""
        raise NotImplementedError

    async def publish_to_iot_core(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        """Publish by the device's MQTT connection."""
        raise NotImplementedError

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Callable[[str, bytes], None]) -> Cancel:
        """Call `deliver(topic, payload)` for each message from the cloud."""
        raise NotImplementedError

    def publish_to_topic(self, component: str, topic: str, message: Message) -> None:
        """Publish to the device's own components."""
        raise NotImplementedError

    def subscribe_to_topic(
        self, component: str, topic: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        """Call `deliver(topic, message)` for each local message."""
        raise NotImplementedError

    def update_state(self, component: str, state: str) -> None:
        """Take a component's own word for its state: RUNNING or ERRORED."""
        raise NotImplementedError


@dataclass(frozen=True)
class IpcLimits:
    """What a client may ask of the server; the defaults are those of nucleus lite 2.6.0 where it has one.

    Args:
        message_bytes: Longest message of a client; a longer one ends its connection.
        clients: Connections at once; one more is closed at once.
        subscriptions: Open subscriptions of all clients together; one more is refused.
        payload_bytes: Longest payload for the cloud.
        nesting: How deep the JSON of a request may be nested, its own levels included; None for no limit of its own.
        items: Longest list in a request; None for no limit. Nucleus lite took 100 and refused 200.
        value_bytes: Longest value of a configuration as encoded JSON; None for no limit.
        levels: How deep a configuration may be; None for no limit.
        receive_modes: A local subscription may leave out the component's own messages; nucleus lite sends them all.
        pings: A ping is answered; nucleus lite ends the connection.
        tells_refusal: A refused token is answered with a reason; nucleus lite closes the socket without a word.
        ends_answers: An answer ends its stream; nucleus lite leaves it open until the client ends it or leaves.
        calls: Calls of one connection under way at once; further ones wait in the socket.
        backlog_bytes: Unread bytes that a client may let pile up before it is disconnected.
        connect_s: Seconds a new connection has to present its token.
        linger_s: Seconds a refused client has to read the reason.
    """

    message_bytes: int = ipc.MESSAGE_BYTES.value
    clients: int = ipc.CLIENTS.value
    subscriptions: int = ipc.SUBSCRIPTIONS.value
    payload_bytes: int = ipc.PAYLOAD_BYTES.value
    nesting: int | None = ipc.NESTING.value
    items: int | None = ipc.ITEMS.value
    value_bytes: int | None = configuration.VALUE_BYTES.value
    levels: int | None = configuration.LEVELS.value
    receive_modes: bool = False
    pings: bool = False
    tells_refusal: bool = False
    ends_answers: bool = False
    calls: int = 64
    backlog_bytes: int = 8 << 20
    connect_s: float = 10.0
    linger_s: float = 2.0


@dataclass(frozen=True)
class Call:
    """One request of a component.

    Args:
        handler: What serves it.
        component: The caller's name.
        operation: Its name without namespace.
        request: The decoded JSON object.
        emit: Sends an event on the call's stream.
        limits: What a component may ask.
    """

    handler: IpcHandler
    component: str
    operation: str
    request: dict[str, Any]
    emit: Callable[[dict[str, Any]], None]
    limits: IpcLimits

    def field(self, name: str, types: type | tuple[type, ...], default: Any = _ABSENT) -> Any:
        """A field of the request; null counts as absent.

        Raises:
            InvalidRequestError: It is missing without a default, or of another type.
        """
        value = self.request.get(name)
        if value is None and default is not _ABSENT:
            return default
        if not isinstance(value, types) or isinstance(value, bool):
            raise InvalidRequestError(f"{name} is missing or has the wrong type")
        return value

    def key_path(self) -> list[str]:
        """The request's `keyPath`, empty when absent."""
        path: list[str] = self.field("keyPath", list, [])
        if not all(isinstance(key, str) for key in path):
            raise InvalidRequestError("keyPath must be a list of strings")
        return path

    def qos(self) -> int:
        """The request's `qos`, 1 when absent."""
        qos = str(self.field("qos", (str, int), "1"))
        if qos not in ("0", "1"):
            raise InvalidRequestError(f"qos must be 0 or 1, got {qos}")
        return int(qos)

    def topic(self, name: str, service: str, *, publish: bool) -> str:
        """The topic named by a field, once the caller's policies allow this operation on it."""
        topic: str = self.field(name, str)
        if not topic or (publish and ("+" in topic or "#" in topic)):
            raise InvalidRequestError(f"{name} is not a valid topic")
        operation = NAMESPACE + self.operation
        if not is_authorized(self.handler.access_control(self.component), service, operation, topic):
            raise IpcError(
                "UnauthorizedError",
                f"Principal {self.component} is not authorized to perform {service}:{operation} on resource {topic}",
            )
        return topic


class Operation(NamedTuple):
    """How an operation is served: what does it, the type of its events, its error for an invalid request."""

    perform: _Perform
    event_type: str | None
    invalid_request: str


OPERATIONS: dict[str, Operation] = {}


def _operation(
    name: str, event_type: str | None = None, *, invalid_request: str = "ServiceError"
) -> Callable[[_Perform], _Perform]:
    """Serve an operation of the service model by a function."""

    def register(perform: _Perform) -> _Perform:
        OPERATIONS[name] = Operation(perform, event_type, invalid_request)
        return perform

    return register


@_operation("GetConfiguration")
async def _get_configuration(call: Call) -> dict[str, Any]:
    component, path = call.field("componentName", str, call.component), call.key_path()
    value = call.handler.get_configuration(component, path)
    return {"componentName": component, "value": value if isinstance(value, dict) else {path[-1]: value}}


@_operation("UpdateConfiguration", invalid_request="InvalidArgumentsError")
async def _update_configuration(call: Call) -> None:
    path, value = call.key_path(), call.request.get("valueToMerge")
    if "valueToMerge" not in call.request or (not path and not isinstance(value, dict)):
        raise InvalidRequestError("valueToMerge is missing or not a map")
    touched = path[:1] or list(value or {})
    if "accessControl" in touched:
        raise InvalidRequestError("Config update is not allowed for following field [accessControl]")
    _check_size(path, value, call.limits)
    timestamp_ms = round(call.field("timestamp", (int, float)) * 1000)
    call.handler.update_configuration(call.component, path, value, timestamp_ms)


def _check_size(path: list[str], value: Any, limits: IpcLimits) -> None:
    for at, size in configuration.long_values(value, tuple(path)) if limits.value_bytes is not None else ():
        text = f"{'/'.join(at)} must be at most {limits.value_bytes} bytes as encoded JSON on this nucleus, got {size}"
        raise IpcError("ServiceError", text)
    levels = len(path) + configuration.levels(value)
    if limits.levels is not None and levels > limits.levels:
        text = f"a configuration must have at most {limits.levels} levels on this nucleus, got {levels}"
        raise IpcError("ServiceError", text)


@_operation("SubscribeToConfigurationUpdate", "ConfigurationUpdateEvents")
async def _subscribe_to_configuration_update(call: Call) -> Cancel:
    def deliver(component: str, key_path: list[str]) -> None:
        call.emit({"configurationUpdateEvent": {"componentName": component, "keyPath": key_path}})

    component = call.field("componentName", str, call.component)
    return call.handler.subscribe_to_configuration_update(component, call.key_path(), deliver)


@_operation("PublishToIoTCore")
async def _publish_to_iot_core(call: Call) -> None:
    payload, qos = _decode_blob(call.field("payload", str, "")), call.qos()
    if len(payload) > (limit := call.limits.payload_bytes):
        raise IpcError("ServiceError", f"a payload must be at most {limit} bytes on this nucleus, got {len(payload)}")
    topic = call.topic("topicName", MQTT_PROXY, publish=True)
    properties = {name: value for name, value in call.request.items() if name not in ("topicName", "qos", "payload")}
    await call.handler.publish_to_iot_core(topic, payload, qos, properties)


@_operation("SubscribeToIoTCore", "IoTCoreMessage")
async def _subscribe_to_iot_core(call: Call) -> Cancel:
    def deliver(topic: str, payload: bytes) -> None:
        call.emit({"message": {"topicName": topic, "payload": base64.b64encode(payload).decode()}})

    qos, topic = call.qos(), call.topic("topicName", MQTT_PROXY, publish=False)
    return await call.handler.subscribe_to_iot_core(topic, qos, deliver)


@_operation("PublishToTopic")
async def _publish_to_topic(call: Call) -> None:
    union = {kind: body for kind, body in call.field("publishMessage", dict).items() if body is not None}
    call.handler.publish_to_topic(call.component, call.topic("topic", PUBSUB, publish=True), _local_message(union))


@_operation("SubscribeToTopic", "SubscriptionResponseMessage", invalid_request="InvalidArgumentsError")
async def _subscribe_to_topic(call: Call) -> Cancel:
    def deliver(topic: str, message: Message) -> None:
        is_json = isinstance(message, Json)
        value = message.value if isinstance(message, Json) else base64.b64encode(message).decode()
        call.emit({"jsonMessage" if is_json else "binaryMessage": {"message": value, "context": {"topic": topic}}})

    mode = call.field("receiveMode", str, _RECEIVE_MODES[0])
    if mode not in _RECEIVE_MODES:
        raise InvalidRequestError(f"receiveMode must be one of {', '.join(_RECEIVE_MODES)}, got {mode}")
    topic = call.topic("topic", PUBSUB, publish=False)
    others_only = mode == _RECEIVE_MODES[1] and call.limits.receive_modes
    return call.handler.subscribe_to_topic(call.component, topic, others_only, deliver)


@_operation("UpdateState")
async def _update_state(call: Call) -> None:
    state = call.field("state", str)
    if state not in ("RUNNING", "ERRORED"):
        raise InvalidRequestError(f"state must be RUNNING or ERRORED, got {state}")
    call.handler.update_state(call.component, state)


def _local_message(union: dict[str, Any]) -> Message:
    try:
        ((kind, body),) = union.items()
        if kind == "jsonMessage":
            return Json(body["message"])
        if kind == "binaryMessage":
            return _decode_blob(body["message"])
    except (ValueError, KeyError, TypeError):
        pass
    raise InvalidRequestError("publishMessage must be one jsonMessage or one binaryMessage, with a message")


def _decode_blob(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise InvalidRequestError("the payload is not base64") from exc
