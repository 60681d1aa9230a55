"""Client devices beside a core device of the twin: AWS's SDK and paho discover it, ask, and are turned away."""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from awscrt import mqtt as crt_mqtt
from awscrt.http import HttpProxyOptions
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    SocketOptions,
    TlsContextOptions,
)
from awsiot import mqtt_connection_builder
from awsiot.greengrass_discovery import DiscoverResponse, DiscoveryClient, DiscoveryException
from typer.testing import CliRunner

from config.public_components import AUTH, BRIDGE, IP_DETECTOR, MOQUETTE, PUBLIC_COMPONENTS
from tests.twin.conftest import wait_until
from twin import faults, lifecycle
from twin.cli import application
from twin.devices import client_device
from twin.devices.client_device import ClientDevices
from twin.devices.membership import set_own_devices
from twin.operator import OperatorClient
from twin.ports import free_ports
from twin.state import TwinState

CORE, GROUP, TOPICS = "device-01", "site", "edgewright/twin"
WAIT_S = 30.0

ECHO = """
import base64, json, os, sys
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2 as Client
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage
client = Client()
def heard(event):
    request = json.loads(event.binary_message.message)
    size = len(base64.b64decode(request.get("image", "")))
    answer = json.dumps({"request_id": request["request_id"], "bytes": size}).encode()
    client.publish_to_topic(topic="edgewright/twin/digits/response",
                            publish_message=PublishMessage(binary_message=BinaryMessage(message=answer)))
client.subscribe_to_topic(topic="edgewright/twin/digits/request", on_stream_event=heard)
client.update_state(state="RUNNING")
import threading
threading.Event().wait()
"""

PUBSUB = "aws.greengrass.ipc.pubsub"


@dataclass
class Site:
    """A twin with one core device, and the API."""

    state: TwinState
    folder: Path
    deployments: int = 0

    def client(self, service: str) -> Any:
        return boto3.client(service, **self.state.client_arguments())

    def deploy(self, components: dict[str, Any]) -> None:
        greengrass = self.client("greengrassv2")
        target = f"arn:aws:iot:{self.state.region}:{self.state.account}:thinggroup/{GROUP}"
        made = greengrass.create_deployment(targetArn=target, components=components)["deploymentId"]

        def done() -> bool:
            try:
                found = greengrass.list_effective_deployments(coreDeviceThingName=CORE)["effectiveDeployments"]
            except greengrass.exceptions.ResourceNotFoundException:
                return False
            each: dict[str, Any] = next((entry for entry in found if entry["deploymentId"] == made), {})
            assert each.get("coreDeviceExecutionStatus") != "FAILED", each
            return each.get("coreDeviceExecutionStatus") == "SUCCEEDED"

        wait_until(done, 60)

    def device(self, thing: str, core: str = CORE) -> Path:
        folder = self.folder / thing
        made = ClientDevices(self.state).add(thing, core)
        client_device.write_folder(folder, made, self.state)
        return folder

    def log(self) -> str:
        return (self.state.home / "devices" / CORE / "log" / "core_device.log").read_text()


def components(port: int) -> dict[str, Any]:
    topics = {"ask": f"{TOPICS}/+/request", "answer": f"{TOPICS}/+/response"}
    everybody = {"selectionRule": "thingName: camera-* OR thingName: sdk-*", "policyName": "Ask"}
    policy = {
        "Connect": {
            "operations": ["mqtt:connect"],
            "resources": ["mqtt:clientId:${iot:Connection.Thing.ThingName}"],
        },
        "Say": {"operations": ["mqtt:publish"], "resources": [f"mqtt:topic:{TOPICS}/digits/request", "mqtt:topic:up"]},
        "Hear": {
            "operations": ["mqtt:subscribe"],
            "resources": [f"mqtt:topicfilter:{TOPICS}/*", "mqtt:topicfilter:down"],
        },
    }
    merged: dict[str, Any] = {
        AUTH: {
            "deviceGroups": {
                "formatVersion": "2021-03-05",
                "definitions": {"Everybody": everybody},
                "policies": {"Ask": policy},
            },
            "security": {"clientDeviceTrustDurationMinutes": 60},
        },
        MOQUETTE: {"moquette": {"ssl_port": str(port)}},
        BRIDGE: {
            "mqttTopicMapping": {
                "Ask": {"topic": topics["ask"], "source": "LocalMqtt", "target": "Pubsub"},
                "Answer": {"topic": topics["answer"], "source": "Pubsub", "target": "LocalMqtt"},
                "Up": {"topic": "up", "source": "LocalMqtt", "target": "IotCore", "targetTopicPrefix": "site/"},
                "Down": {"topic": "down", "source": "IotCore", "target": "LocalMqtt"},
            }
        },
        IP_DETECTOR: {"defaultPort": port, "includeIPv4LoopbackAddrs": True},
    }
    return {
        **{
            name: {
                "componentVersion": PUBLIC_COMPONENTS[name].version,
                "configurationUpdate": {"merge": json.dumps(merge)},
            }
            for name, merge in merged.items()
        },
        "com.example.Echo": {"componentVersion": "1.0.0"},
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("twin")
    try:
        state = lifecycle.start(home)
        found = Site(state, tmp_path_factory.mktemp("clients"))
        set_own_devices(state, 1, group=GROUP, dialect="classic")
        access = {
            PUBSUB: {
                "all": {
                    "operations": ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
                    "resources": ["*"],
                }
            }
        }
        script = found.folder / "echo.py"
        script.write_text(ECHO)
        found.client("greengrassv2").create_component_version(
            inlineRecipe=json.dumps(
                {
                    "RecipeFormatVersion": "2020-01-25",
                    "ComponentName": "com.example.Echo",
                    "ComponentVersion": "1.0.0",
                    "ComponentConfiguration": {"DefaultConfiguration": {"accessControl": access}},
                    "Manifests": [
                        {
                            "Platform": {"os": "linux", "runtime": "*"},
                            "Artifacts": [],
                            "Lifecycle": {"run": f"exec '{sys.executable}' '{script}'"},
                        }
                    ],
                }
            )
        )
        (port,) = free_ports(1)
        found.deploy(components(port))
        found.client("iot").create_thing(thingName="core-2")
        yield found
    finally:
        lifecycle.stop(home)


class Sdk:
    """A client device by AWS's SDK: discovery, then MQTT."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.thing = site, folder, folder.name
        self.events: queue.Queue[str] = queue.Queue()
        self.heard: dict[str, queue.Queue[dict[str, Any]]] = {}
        self.connection: Any = None

    def discover(self) -> DiscoverResponse:
        group = EventLoopGroup(1)
        options = TlsContextOptions.create_client_with_mtls_from_path(
            str(self.folder / "device.pem.crt"), str(self.folder / "private.pem.key")
        )
        options.override_default_trust_store_from_path(None, str(self.folder / "root_ca.pem"))
        client = DiscoveryClient(
            ClientBootstrap(group, DefaultHostResolver(group)),
            SocketOptions(),
            ClientTlsContext(options),
            self.site.state.region,
            proxy_options=HttpProxyOptions("127.0.0.1", self.site.state.proxy_port),
        )
        found: DiscoverResponse = client.discover(self.thing).result(WAIT_S)
        return found

    def connect(self, found: DiscoverResponse) -> None:
        (group,) = found.gg_groups
        (place,) = group.cores[0].connectivity
        self.connection = mqtt_connection_builder.mtls_from_path(
            endpoint=place.host_address,
            port=place.port,
            cert_filepath=str(self.folder / "device.pem.crt"),
            pri_key_filepath=str(self.folder / "private.pem.key"),
            ca_bytes=group.certificate_authorities[0].encode(),
            client_id=self.thing,
            clean_session=False,
            keep_alive_secs=30,
            reconnect_min_timeout_secs=1,
            reconnect_max_timeout_secs=1,
            on_connection_interrupted=lambda **_: self.events.put("interrupted"),
            on_connection_resumed=lambda **_: self.events.put("resumed"),
        )
        self.connection.connect().result(WAIT_S)

    def listen(self, topic: str) -> None:
        heard = self.heard[topic] = queue.Queue()
        self.connection.subscribe(
            topic, crt_mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: heard.put(json.loads(payload))
        )[0].result(WAIT_S)

    def say(self, topic: str, content: dict[str, Any]) -> None:
        self.connection.publish(topic, json.dumps(content), crt_mqtt.QoS.AT_LEAST_ONCE)[0].result(WAIT_S)

    def ask(self, picture: bytes) -> dict[str, Any]:
        number = uuid.uuid4().hex
        self.say(f"{TOPICS}/digits/request", {"request_id": number, "image": base64.b64encode(picture).decode()})
        answers = self.heard[f"{TOPICS}/digits/response"]
        while (answer := answers.get(timeout=WAIT_S))["request_id"] != number:
            pass
        return answer

    def until(self, event: str) -> None:
        while self.events.get(timeout=WAIT_S) != event:
            pass


@pytest.fixture(scope="module")
def sdk(site: Site) -> Iterator[Sdk]:
    device = Sdk(site, site.device("sdk-1"))
    device.connect(wait_until(lambda: discovered(device)))
    device.listen(f"{TOPICS}/digits/response")
    yield device
    device.connection.disconnect().result(WAIT_S)


def discovered(device: Sdk) -> DiscoverResponse | None:
    try:
        return device.discover()
    except DiscoveryException:
        return None


def plain(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The client of the folder, run as its README says."""
    command = [sys.executable, str(folder / client_device.SCRIPT), *words]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=False)


PICTURE = os.urandom(20_000)


def test_awss_sdk_discovers_connects_and_is_answered_about_a_picture(site: Site, sdk: Sdk) -> None:
    found = sdk.discover()

    (group,) = found.gg_groups
    assert group.gg_group_id == f"greengrassV2-coreDevice-{CORE}"
    assert group.cores[0].thing_arn == f"arn:aws:iot:{site.state.region}:{site.state.account}:thing/{CORE}"
    assert group.certificate_authorities[0].startswith("-----BEGIN CERTIFICATE-----")
    assert sdk.ask(PICTURE)["bytes"] == len(PICTURE)


def test_the_plain_client_of_the_folder_discovers_asks_and_is_private(site: Site, tmp_path: Path) -> None:
    folder = site.device("camera-1")
    (tmp_path / "picture.png").write_bytes(PICTURE)

    told = plain(folder, "discover")
    answer = plain(folder, "ask", "digits", "--image", str(tmp_path / "picture.png"))

    assert (told.returncode, answer.returncode) == (0, 0), told.stderr + answer.stderr
    assert f"thing/{CORE} at 127.0.0.1:" in told.stdout
    assert json.loads(answer.stdout)["bytes"] == len(PICTURE)
    assert [
        path for path in (folder, *folder.iterdir()) if path.name != "cores.json" and path.stat().st_mode & 0o077
    ] == []


def test_the_example_of_the_documentation_runs_as_it_stands(site: Site) -> None:
    text = (Path(__file__).parents[2] / "docs" / "client-devices.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.folder / "camera-1",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"request_id": "a1", "bytes": 0}


def refused(folder: Path) -> str:
    answer = plain(folder, "ask", "digits")
    assert answer.returncode == 1, answer.stdout
    return answer.stderr


def test_the_line_is_cut_and_both_are_still_answered_and_what_waits_reaches_the_cloud(site: Site, sdk: Sdk) -> None:
    with OperatorClient(site.state) as operator, operator.listen("site/up") as heard:
        faults.do(site.state, CORE, "cut-network", "")
        try:
            wait_until(lambda: "the MQTT connection is lost" in site.log())

            assert sdk.ask(PICTURE)["bytes"] == len(PICTURE)
            answer = plain(site.folder / "camera-1", "ask", "digits")
            assert answer.returncode == 0, answer.stderr
            assert "camera-1 is let in by what the cloud said before" in site.log()
            # Nobody has verified this one.
            assert "Not authorized" in refused(site.device("camera-9"))
            for number in range(3):
                sdk.say("up", {"number": number})
        finally:
            faults.do(site.state, CORE, "restore-network", "")

        assert [json.loads(heard.get(timeout=WAIT_S)) for _ in range(3)] == [{"number": number} for number in range(3)]


def test_a_core_that_is_killed_while_its_line_is_cut_serves_its_clients_again_without_the_cloud(
    site: Site, sdk: Sdk
) -> None:
    faults.do(site.state, CORE, "cut-network", "")
    try:
        faults.do(site.state, CORE, "kill", "")

        sdk.until("resumed")
        # Sessions end with the core's process, so a client says anew what it wants to hear.
        sdk.connection.resubscribe_existing_topics()[0].result(WAIT_S)
        assert sdk.ask(PICTURE)["bytes"] == len(PICTURE)
    finally:
        connected = site.log().count(" connected to ")
        faults.do(site.state, CORE, "restore-network", "")
        wait_until(lambda: site.log().count(" connected to ") > connected)


def test_the_bridge_brings_the_clouds_messages_once_and_refuses_what_no_policy_lets(site: Site, sdk: Sdk) -> None:
    sdk.listen("down")
    with pytest.raises(crt_mqtt.SubscribeError):
        sdk.listen("elsewhere")
    sdk.say("down", {"request_id": "no right to publish it"})

    say_in_the_cloud(site, "down", {"request_id": "from the cloud"})

    assert sdk.heard["down"].get(timeout=WAIT_S) == {"request_id": "from the cloud"}
    assert sdk.ask(b"x")["bytes"] == 1
    assert sdk.heard["down"].empty()


def test_the_broker_starts_anew_with_a_new_certificate_and_clients_come_back(site: Site, sdk: Sdk) -> None:
    before = certificate(sdk)

    faults.do(site.state, CORE, "broker", "")

    sdk.until("resumed")
    assert certificate(sdk) != before
    assert sdk.ask(PICTURE)["bytes"] == len(PICTURE)


def test_another_cores_device_and_one_of_no_group_are_turned_away(site: Site) -> None:
    known = (site.folder / "camera-1" / client_device.CORES).read_text()
    others = site.device("camera-2", "core-2")
    assert "404" in plain(others, "discover").stderr
    (others / client_device.CORES).write_text(known)
    ungrouped = site.device("plc-1")

    assert "Not authorized" in refused(others)
    assert "Not authorized" in refused(ungrouped)

    assert "camera-2 is no client device of this core by this certificate" in site.log()
    assert "no policy lets plc-1 connect (mqtt:connect); its device groups: none" in site.log()


def test_the_command_makes_a_folder_once_and_takes_its_certificate_back(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_HOME", str(site.state.home))

    def run(*words: str) -> Any:
        return CliRunner().invoke(application, ["device", *words])

    made = run("camera-7", "--out", str(tmp_path / "camera-7"))
    assert made.exit_code == 0, made.output
    assert "camera-7 may connect to device-01. Next:" in made.output
    assert plain(tmp_path / "camera-7", "ask", "digits").returncode == 0
    for words, rule in (
        (("camera-7", "--out", str(tmp_path / "camera-7")), "--out must be a new or empty folder"),
        (("a b", "--out", str(tmp_path / "x")), "THING must be 1 to 124 of letters"),
        (("camera-8", "--core", "nobody", "--out", str(tmp_path / "x")), "camera-8"),
        ((CORE, "--out", str(tmp_path / "x")), f"THING must be a client device's, got {CORE}, which is a core device"),
        ((CORE, "--remove"), f"got {CORE}, which is a core device"),
    ):
        assert rule in str(run(*words).exception)
    assert not (tmp_path / "x").exists()
    assert "no broker" not in made.output
    beside_none = run("camera-9", "--core", "core-2", "--out", str(tmp_path / "camera-9"))
    assert "discovery finds no broker yet on core-2: a broker comes with [client_devices] and" in beside_none.output
    run("camera-9", "--remove")

    assert "has no certificate any more" in run("camera-7", "--remove").output

    assert "There is no thing camera-7" in run("camera-7", "--remove").output
    assert (
        "is the cloud reached, and the certificate of camera-7 active?"
        in plain(tmp_path / "camera-7", "discover").stderr
    )
    run("camera-8", "--remove")


def test_discovery_answers_errors_as_aws_does(site: Site) -> None:
    folder = site.folder / "camera-1"
    url = f"https://greengrass-ats.iot.{site.state.region}.amazonaws.com:8443/greengrass/discover/thing/"
    proxy = f"http://127.0.0.1:{site.state.proxy_port}"
    cert = (str(folder / "device.pem.crt"), str(folder / "private.pem.key"))
    root = str(folder / "root_ca.pem")

    with httpx.Client(proxy=proxy, verify=tls(root, cert), timeout=WAIT_S) as known:
        other = known.get(url + "sdk-1")
        found = known.get(url + "camera-1")
    nobody = httpx.Client(proxy=proxy, verify=tls(root), timeout=WAIT_S)
    with nobody, pytest.raises(httpx.RemoteProtocolError):
        nobody.get(url + "camera-1")

    assert (other.status_code, other.json()["message"]) == (403, None)
    (place,) = found.json()["GGGroups"][0]["Cores"][0]["Connectivity"]
    assert (place["HostAddress"], place["Metadata"], set(place)) == (
        "127.0.0.1",
        "",
        {"Id", "HostAddress", "PortNumber", "Metadata"},
    )
    told = site.client("greengrassv2").get_connectivity_info(thingName=CORE)["connectivityInfo"]
    assert [entry["portNumber"] for entry in told] == [place["PortNumber"]]


def test_new_policies_hold_for_those_who_are_connected(site: Site, sdk: Sdk) -> None:
    port = int(site.client("greengrassv2").get_connectivity_info(thingName=CORE)["connectivityInfo"][0]["portNumber"])
    other = components(port)
    groups = json.loads(other[AUTH]["configurationUpdate"]["merge"])
    groups["deviceGroups"]["definitions"]["Everybody"]["selectionRule"] = "thingName: camera-*"
    other[AUTH]["configurationUpdate"]["merge"] = json.dumps(groups)

    site.deploy(other)

    sdk.until("interrupted")
    wait_until(lambda: "no policy lets sdk-1 connect" in site.log())
    site.deploy(components(port))
    sdk.until("resumed")
    assert sdk.ask(b"x")["bytes"] == 1

    # The same again disturbs nobody.
    merge = json.loads(components(port)[MOQUETTE]["configurationUpdate"]["merge"])
    again = {"merge": json.dumps(merge), "reset": ["/moquette"]}
    site.deploy({**components(port), MOQUETTE: {**components(port)[MOQUETTE], "configurationUpdate": again}})
    assert sdk.ask(b"x")["bytes"] == 1
    assert sdk.events.empty()


def test_a_device_that_is_disassociated_is_ended_and_turned_away(site: Site, sdk: Sdk) -> None:
    assert sdk.ask(b"x")["bytes"] == 1

    site.client("greengrassv2").batch_disassociate_client_device_from_core_device(
        coreDeviceThingName=CORE, entries=[{"thingName": "sdk-1"}]
    )

    sdk.until("interrupted")
    wait_until(lambda: "client device sdk-1 is associated with this core no more" in site.log())
    wait_until(lambda: "sdk-1 is no client device of this core by this certificate" in site.log())
    assert discovered(sdk) is None


def tls(root: str, cert: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=root)
    if cert:
        context.load_cert_chain(*cert)
    return context


def certificate(device: Sdk) -> bytes | None:
    (group,) = device.discover().gg_groups
    place = group.cores[0].connectivity[0]
    context = ssl.create_default_context(cadata=group.certificate_authorities[0])
    context.load_cert_chain(device.folder / "device.pem.crt", device.folder / "private.pem.key")
    with (
        socket.create_connection((place.host_address, place.port), WAIT_S) as raw,
        context.wrap_socket(raw, server_hostname=place.host_address) as secured,
    ):
        shown: bytes | None = secured.getpeercert(binary_form=True)
        return shown


def say_in_the_cloud(site: Site, topic: str, content: dict[str, Any]) -> None:
    site.client("iot-data").publish(topic=topic, qos=1, payload=json.dumps(content))
