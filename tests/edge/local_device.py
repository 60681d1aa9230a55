"""A device for tests: the twin's IPC server on a real socket, with a configuration and a broker in memory."""

import asyncio
import json
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from twin.core_device.ipc.operations import Cancel, IpcError, IpcHandler, IpcLimits, Json, Message
from twin.core_device.ipc.server import IpcServer
from twin.core_device.ipc.service import LocalTopics

COMPONENT = "edgewright.test.Inference"
#: Another component of the device, which asks on local topics.
NEIGHBOUR = "com.example.Camera"
CARRIER = "edgewright.test.Runtime"
TOKEN = "ABCDEFGH"
NEIGHBOUR_TOKEN = "IJKLMNOP"
REQUEST = "edgewright/test/digits/request"
RESPONSE = "edgewright/test/digits/response"


def configuration(**changes: Any) -> dict[str, Any]:
    """The component's configuration with one model."""
    return {
        "models": {
            "digits": {
                "component": "edgewright.test.model.Digits",
                "requestTopic": REQUEST,
                "responseTopic": RESPONSE,
                "topK": 3,
                **changes,
            }
        },
        "accessControl": {
            "aws.greengrass.ipc.mqttproxy": {
                "in": {"operations": ["aws.greengrass#SubscribeToIoTCore"], "resources": [REQUEST]},
                "out": {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": [RESPONSE]},
            },
            "aws.greengrass.ipc.pubsub": {
                "in": {"operations": ["aws.greengrass#SubscribeToTopic"], "resources": [REQUEST]},
                "out": {"operations": ["aws.greengrass#PublishToTopic"], "resources": [RESPONSE]},
            },
        },
    }


class LocalDevice(IpcHandler):
    """Serves one component; use it as a context manager."""

    def __init__(self, socket: Path, config: dict[str, Any]) -> None:
        self.socket = socket
        self.config = config
        self.carried: dict[str, Any] | None = None
        self.token = TOKEN
        self.refused_publishes = 0
        #: Whether the cloud cannot be reached: what goes there is refused, as nucleus lite does.
        self.line_is_cut = False
        self.is_lite = True
        self.states: list[str] = []
        self.answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._watchers: list[Callable[[str, list[str]], None]] = []
        self._topics: dict[str, list[Callable[[str, bytes], None]]] = defaultdict(list)
        self._local = LocalTopics()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server = self._new_server()

    def __enter__(self) -> Self:
        self._thread.start()
        self._on_loop(self._server.start(self.socket))
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def environment(self) -> dict[str, str]:
        """What the device gives its component."""
        return {
            "AWS_IOT_THING_NAME": "thing-1",
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.socket),
            "SVCUID": self.token,
        }

    def neighbour_environment(self) -> dict[str, str]:
        """What the device gives another component."""
        return {**self.environment(), "SVCUID": NEIGHBOUR_TOKEN}

    def ask_locally(self, message: bytes | Mapping[str, Any], topic: str = REQUEST) -> None:
        """Publish a request as another component of the device: bytes, or an object as JSON."""

        async def deliver() -> None:
            self._local.publish(NEIGHBOUR, topic, message if isinstance(message, bytes) else Json(dict(message)))

        self._on_loop(deliver())

    def hear_locally(self, topic: str = RESPONSE) -> "queue.Queue[Message]":
        """What is published on a local topic from now on."""
        heard: queue.Queue[Message] = queue.Queue()

        async def listen() -> None:
            self._local.subscribe(NEIGHBOUR, topic, False, lambda _topic, message: heard.put(message))

        self._on_loop(listen())
        return heard

    def restart(self) -> None:
        """Go away with every connection and come back."""
        self._on_loop(self._server.stop())
        self._topics.clear()
        self._local = LocalTopics()
        self._watchers.clear()
        self._server = self._new_server()
        self._on_loop(self._server.start(self.socket))

    def go_deaf(self) -> None:
        """Forget what was subscribed to, and tell nobody."""

        async def forget() -> None:
            self._topics.clear()

        self._on_loop(forget())

    def forget_local_topics(self) -> None:
        """Forget what components listen to, as nucleus lite does when its messaging daemon starts anew."""

        async def forget() -> None:
            self._local = LocalTopics()

        self._on_loop(forget())

    def wait_for_subscription(self, topic: str = REQUEST, limit_s: float = 30) -> None:
        """Wait until the component listens."""

        async def subscribed() -> None:
            while not self._topics[topic]:
                await asyncio.sleep(0.02)

        self._on_loop(asyncio.wait_for(subscribed(), limit_s))

    def wait_for_local_subscription(self, topic: str = REQUEST, limit_s: float = 30) -> None:
        """Wait until the component listens to the device's own components."""

        async def subscribed() -> None:
            while topic not in self._local._subscriptions:
                await asyncio.sleep(0.02)

        self._on_loop(asyncio.wait_for(subscribed(), limit_s))

    def send(self, payload: bytes | Mapping[str, Any], topic: str = REQUEST) -> None:
        """Publish a request from the cloud."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()

        async def deliver() -> None:
            for to in list(self._topics[topic]):
                to(topic, data)

        self._on_loop(deliver())

    def answer(self, limit_s: float = 30) -> dict[str, Any]:
        """Take the next answer."""
        return self.answers.get(timeout=limit_s)

    def configure(self, config: dict[str, Any]) -> None:
        """Change the configuration and tell the component."""

        async def change() -> None:
            self.config = config
            for tell in list(self._watchers):
                tell(COMPONENT, ["models", "digits", "topK"])

        self._on_loop(change())

    def _new_server(self) -> IpcServer:
        return IpcServer(self, IpcLimits(backlog_bytes=64 << 20))

    def _on_loop(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    # What the server asks of its handler.

    def component_of(self, token: str) -> str | None:
        return {self.token: COMPONENT, NEIGHBOUR_TOKEN: NEIGHBOUR}.get(token)

    def access_control(self, component: str) -> Any:
        if component == NEIGHBOUR:
            return {"aws.greengrass.ipc.pubsub": {"all": {"operations": ["*"], "resources": ["*"]}}}
        return self.config["accessControl"]

    def get_configuration(self, component: str, key_path: list[str]) -> Any:
        if component == COMPONENT:
            return self.config
        if component == "aws.greengrass.NucleusLite" and self.is_lite:
            return {"awsRegion": "eu-west-1"}
        if component != CARRIER or self.carried is None:
            raise IpcError("ResourceNotFoundError", "Key not found")
        return self.carried

    def subscribe_to_configuration_update(
        self, component: str, key_path: list[str], deliver: Callable[[str, list[str]], None]
    ) -> Cancel:
        self.get_configuration(component, key_path)
        self._watchers.append(deliver)
        return lambda: self._remove(self._watchers, deliver)

    async def publish_to_iot_core(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        if self.line_is_cut:
            raise IpcError("ServiceError", "the device is not connected")
        if self.refused_publishes:
            self.refused_publishes -= 1
            raise IpcError("ServiceError", "too many messages in flight")
        self.answers.put(json.loads(payload))

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Callable[[str, bytes], None]) -> Cancel:
        if self.line_is_cut:
            raise IpcError("ServiceError", "the device is not connected")
        self._topics[topic].append(deliver)
        return lambda: self._remove(self._topics[topic], deliver)

    def publish_to_topic(self, component: str, topic: str, message: Message) -> None:
        self._local.publish(component, topic, message)

    def subscribe_to_topic(
        self, component: str, topic: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        return self._local.subscribe(component, topic, others_only, deliver)

    def update_state(self, component: str, state: str) -> None:
        assert component == COMPONENT
        self.states.append(state)

    @staticmethod
    def _remove(items: list[Any], item: Any) -> None:
        if item in items:
            items.remove(item)
