"""A hostile device against a twin with IAM and IoT policies evaluated: refused and logged, the others go on."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.twin.conftest import wait_until
from twin import lifecycle
from twin.devices.identity import Identity, write_credentials
from twin.devices.membership import SHARED_RIGHTS, Membership
from twin.state import TwinState


@dataclass
class Party:
    """A device that has joined: who it is, and a TLS context with its certificate."""

    state: TwinState
    identity: Identity
    context: ssl.SSLContext

    def mqtt(self, client_id: str = "") -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id or self.identity.thing)
        client.tls_set_context(self.context)
        client.reconnect_on_failure = False  # type: ignore[attr-defined]
        client.connect("127.0.0.1", self.state.mqtt_port, keepalive=30)
        client.loop_start()
        return client

    def get(self, url: str, **headers: str) -> httpx.Response:
        proxy = f"http://127.0.0.1:{self.state.proxy_port}"
        with httpx.Client(proxy=proxy, verify=self.context, timeout=30) as client:
            return client.get(url, headers=headers)

    def thing_groups(self, thing: str) -> httpx.Response:
        return self.get(f"https://{self.identity.data_endpoint}:8443/greengrass/v2/coreDevices/{thing}/thingGroups")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("guarded")
    try:
        yield lifecycle.start(home, auth=True)
    finally:
        lifecycle.stop(home)


@pytest.fixture(scope="module")
def join(guarded: TwinState, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Party]:
    def make(thing: str) -> Party:
        identity = Membership(guarded).join(thing, "ring")
        folder = tmp_path_factory.mktemp(thing)
        write_credentials(folder, identity)
        context = ssl.create_default_context(cafile=str(folder / "root_ca.pem"))
        context.check_hostname = False  # the MQTT port is reached by its address
        context.load_cert_chain(folder / "device.pem.crt", folder / "private.pem.key")
        return Party(guarded, identity, context)

    return make


@pytest.fixture(scope="module")
def good(join: Callable[[str], Party]) -> Party:
    return join("good")


@pytest.fixture(scope="module")
def hostile(join: Callable[[str], Party]) -> Party:
    return join("hostile")


def works(party: Party) -> bool:
    """It gets an answer of each kind: MQTT, data plane, credentials."""
    answers: list[dict[str, Any]] = []
    client = party.mqtt()
    topic = f"$aws/things/{party.identity.thing}/jobs/$next/namespace-aws-gg-deployment/get"
    client.on_message = lambda _c, _u, message: answers.append(json.loads(message.payload))
    try:
        wait_until(client.is_connected, 60)
        client.subscribe(f"{topic}/+", 1)
        client.publish(topic, json.dumps({"clientToken": "t"}), 1)
        wait_until(lambda: answers, 60)
    finally:
        client.disconnect()
        client.loop_stop()
    identity = party.identity
    url = f"https://{identity.credential_endpoint}/role-aliases/{identity.role_alias}/credentials"
    credentials = party.get(url, **{"x-amzn-iot-thingname": identity.thing})
    return answers[0]["clientToken"] == "t" and party.thing_groups(identity.thing).is_success and credentials.is_success


CROWD = """
import socket, sys
size, *ports = map(int, sys.argv[1:])
held = [socket.create_connection(("127.0.0.1", ports[number % len(ports)]), 60) for number in range(size)]
print(len(held), flush=True)
sys.stdin.read()
"""


@contextmanager
def a_crowd(size: int, *ports: int) -> Iterator[None]:
    """Hold connections that say nothing, from a process of their own: paho selects, and cannot serve a file descriptor
    of 1,024 or more."""
    command = [sys.executable, "-c", CROWD, str(size), *map(str, ports)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as crowd:
        assert crowd.stdin
        assert crowd.stdout
        assert crowd.stdout.readline().strip() == str(size)
        yield
        crowd.stdin.close()
        crowd.wait(30)


def log(state: TwinState) -> str:
    return (state.home / "log" / "cloud.log").read_text()


def test_a_certificate_of_another_authority_is_refused_everywhere(
    guarded: TwinState, good: Party, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "k.pem", tmp_path / "c.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=good", "-days", "1"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=30)
    context = ssl.create_default_context(cadata=good.identity.root_ca)
    context.check_hostname = False
    context.load_cert_chain(certificate, key)
    forged = Party(guarded, good.identity, context)

    with suppress(OSError):  # refused in the handshake already
        client = forged.mqtt()
        time.sleep(1)
        client.loop_stop()
        assert not client.is_connected()
    with suppress(httpx.TransportError):  # refused in the handshake already
        assert forged.thing_groups("good").status_code == 403
    assert works(good)


def test_things_and_topics_of_another_device_are_refused(good: Party, hostile: Party) -> None:
    heard: list[str] = []
    spy = hostile.mqtt()
    spy.on_message = lambda _c, _u, message: heard.append(message.topic)
    wait_until(spy.is_connected)
    for topic_filter in ("$aws/things/good/jobs/notify-next-namespace-aws-gg-deployment", "#", "$aws/#", "+/things/#"):
        if not spy.is_connected():
            spy = hostile.mqtt()
            wait_until(spy.is_connected)
        spy.subscribe(topic_filter, 1)
        time.sleep(0.2)
    health = {"timestamp": 1, "messageType": "COMPLETE", "overallDeviceStatus": "UNHEALTHY", "components": []}
    liar = hostile.mqtt()
    wait_until(liar.is_connected)
    liar.publish("$aws/things/good/greengrassv2/health/json", json.dumps(health), 1)
    impostor = hostile.mqtt(client_id="good")
    time.sleep(1)

    assert not impostor.is_connected()
    assert hostile.thing_groups("good").status_code == 403
    identity = hostile.identity
    url = f"https://{identity.credential_endpoint}/role-aliases/{identity.role_alias}/credentials"
    assert hostile.get(url, **{"x-amzn-iot-thingname": "good"}).status_code == 403
    greengrass = boto3.client("greengrassv2", **good.state.client_arguments())
    assert greengrass.list_core_devices()["coreDevices"] == []
    assert works(good)
    assert heard == []
    for client in (spy, liar, impostor):
        client.loop_stop()


def test_oversized_and_malformed_messages_end_their_own_connection_only(good: Party, hostile: Party) -> None:
    state = good.state
    for content in (b"\x00" * 64, b"\xff" * 4096, b"\x10\xff\xff\xff\x7f" + b"x" * 400_000, b"GET / HTTP/1.1\r\n\r\n"):
        for port in (state.mqtt_port, state.data_port, state.front_port, state.proxy_port):
            # Who is refused while the rest is still being sent gets a broken pipe.
            with socket.create_connection(("127.0.0.1", port), 60) as raw, suppress(ConnectionError):
                raw.sendall(content)
            if port == state.proxy_port:
                continue
            with ExitStack() as stack:
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
                secured = stack.enter_context(hostile.context.wrap_socket(raw))
                with suppress(OSError):  # refused before everything was sent
                    secured.sendall(content)
    large = hostile.mqtt()
    wait_until(large.is_connected)
    large.publish("any/topic", b"x" * 5_000_000, 0)
    wait_until(lambda: not large.is_connected())
    large.loop_stop()
    odd = hostile.mqtt()
    wait_until(odd.is_connected)
    for payload in (b"{", b"[" * 50_000, b"\xff\xfe", b"null", b'{"timestamp": 1e999}', b'{"components": [1]}'):
        odd.publish("$aws/things/hostile/greengrassv2/health/json", payload, 1)
        odd.publish("$aws/things/hostile/jobs/$next/namespace-aws-gg-deployment/get", payload, 1)
    wait_until(lambda: "fleet status of hostile must be the JSON of a health message" in log(state))
    odd.loop_stop()

    assert works(good)
    assert "frame buffer overflow, dropping connection" in log(state)


def test_a_thousand_connections_leave_room_for_the_others(good: Party) -> None:
    with a_crowd(1_000, good.state.proxy_port, good.state.mqtt_port, good.state.data_port):
        assert works(good)


def test_the_twins_own_policy_names_one_thing(good: Party) -> None:
    policy = boto3.client("iot", **good.state.client_arguments()).get_policy(policyName=SHARED_RIGHTS)

    assert "${iot:Connection.Thing.ThingName}" in policy["policyDocument"]
