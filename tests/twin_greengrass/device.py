"""A device made of plain clients: paho for MQTT and httpx for HTTPS, both through the CONNECT proxy."""

from __future__ import annotations

import json
import queue
import socket
import ssl
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.twin_greengrass.started_cloud import Cloud

WAIT_S = 30.0
QUEUE = "namespace-aws-gg-deployment"


@dataclass
class Device:
    cloud: Cloud
    thing: str
    certificate_arn: str
    folder: Path
    data_host: str
    credential_host: str

    def tls(self, *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.cloud.authority())
        if certificate:
            context.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        return context

    def https(self, *, certificate: bool = True) -> httpx.Client:
        proxy = f"http://127.0.0.1:{self.cloud.proxy_port}"
        return httpx.Client(proxy=proxy, verify=self.tls(certificate=certificate), timeout=30)

    def data(self, method: str, path: str, **more: Any) -> httpx.Response:
        with self.https() as client:
            return client.request(method, f"https://{self.data_host}:8443{path}", **more)

    def thing_groups(self, thing: str | None = None) -> httpx.Response:
        return self.data("GET", f"/greengrass/v2/coreDevices/{thing or self.thing}/thingGroups")

    def credentials(self, alias: str, thing: str | None = None) -> httpx.Response:
        with self.https() as client:
            url = f"https://{self.credential_host}/role-aliases/{alias}/credentials"
            return client.get(url, headers={"x-amzn-iot-thingname": thing or self.thing})


def make_device(
    cloud: Cloud,
    folder: Path,
    *,
    thing: str = "",
    group: str = "",
    policy: str = "",
    keys: dict[str, str] | None = None,
    exclusively: bool = False,
) -> Device:
    iot, thing = cloud.client("iot", **(keys or {})), thing or f"device-{uuid.uuid4().hex[:8]}"
    iot.create_thing(thingName=thing)
    made = iot.create_keys_and_certificate(setAsActive=True)
    kind = {"thingPrincipalType": "EXCLUSIVE_THING"} if exclusively else {}
    iot.attach_thing_principal(thingName=thing, principal=made["certificateArn"], **kind)
    if group:
        iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
    if keys is None:
        iot.attach_policy(policyName=policy or cloud.open_policy(), target=made["certificateArn"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_text(made["certificatePem"])
    (folder / "key.pem").write_text(made["keyPair"]["PrivateKey"])
    hosts = [
        iot.describe_endpoint(endpointType=kind)["endpointAddress"]
        for kind in ("iot:Data-ATS", "iot:CredentialProvider")
    ]
    return Device(cloud, thing, made["certificateArn"], folder, *hosts)


class _TunnelledClient(mqtt.Client):
    """paho's client, its socket opened by HTTP CONNECT."""

    proxy_port = 0

    def _create_socket_connection(self) -> socket.socket:
        tunnel = socket.create_connection(("127.0.0.1", self.proxy_port), timeout=30)
        tunnel.sendall(f"CONNECT {self._host}:{self._port} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            chunk = tunnel.recv(1)
            if not chunk:
                raise ConnectionError(answer)
            answer += chunk
        if b" 200 " not in answer.split(b"\r\n")[0] + b" ":
            raise ConnectionError(answer)
        return tunnel


@dataclass
class Message:
    topic: str
    document: Any
    at: float


@dataclass
class Session:
    """An MQTT session that keeps what arrives."""

    client: mqtt.Client
    thing: str
    inbox: queue.Queue[Message] = field(default_factory=queue.Queue)

    def subscribe(self, topic: str) -> None:
        _code, number = self.client.subscribe(topic, qos=1)
        deadline = time.monotonic() + WAIT_S
        while number not in self.client.granted:  # type: ignore[attr-defined]
            assert time.monotonic() < deadline, f"no SUBACK for {topic}"
            time.sleep(0.005)

    def publish(self, topic: str, document: Any, qos: int = 1) -> None:
        payload = document if isinstance(document, bytes | str) else json.dumps(document)
        self.client.publish(topic, payload, qos=qos).wait_for_publish(WAIT_S)

    def next(self, topic_end: str = "", limit_s: float = WAIT_S) -> Message:
        """The next message, which has to be on this topic."""
        message = self.inbox.get(timeout=limit_s)
        assert message.topic.endswith(topic_end), f"expected …{topic_end}, got {message}"
        return message

    def quiet(self, limit_s: float) -> bool:
        try:
            message = self.inbox.get(timeout=limit_s)
        except queue.Empty:
            return True
        raise AssertionError(f"expected silence, got {message}")

    def call(self, topic: str, document: Any) -> Message:
        self.publish(topic, document)
        while True:
            message = self.inbox.get(timeout=WAIT_S)
            if message.topic in (f"{topic}/accepted", f"{topic}/rejected"):
                return message

    def job(self, job_id: str, verb: str, document: Any) -> Message:
        return self.call(f"$aws/things/{self.thing}/jobs/{job_id}/{QUEUE}/{verb}", document)


@contextmanager
def connected(device: Device, *, client_id: str = "", jobs: bool = True) -> Any:
    client = _TunnelledClient(CallbackAPIVersion.VERSION2, client_id=client_id or device.thing)
    client.proxy_port = device.cloud.proxy_port
    client.tls_set_context(device.tls())
    client.granted = set()  # type: ignore[attr-defined]
    session = Session(client, device.thing)
    up: queue.Queue[bool] = queue.Queue()
    client.on_connect = lambda _c, _u, _f, code, _p: up.put(not code.is_failure)
    client.on_disconnect = lambda *_: up.put(False)
    client.on_subscribe = lambda c, _u, number, _codes, _p: c.granted.add(number)

    def received(_client: Any, _user: Any, message: mqtt.MQTTMessage) -> None:
        session.inbox.put(Message(message.topic, json.loads(message.payload), time.monotonic()))

    client.on_message = received
    client.connect(device.data_host, 8883, keepalive=30)
    client.loop_start()
    try:
        assert up.get(timeout=WAIT_S), "CONNECT was refused"
        if jobs:
            base = f"$aws/things/{device.thing}/jobs"
            session.subscribe(f"{base}/notify-next-{QUEUE}")
            session.subscribe(f"{base}/+/{QUEUE}/get/+")
            session.subscribe(f"{base}/+/{QUEUE}/update/+")
        yield session
    finally:
        client.disconnect()
        client.loop_stop()
