"""Three groups of Greengrass V1, migrated by the command, run on a core device of the twin with client devices."""

import json
import queue
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from config.names import Names
from config.places import PROJECT as ROOT
from tests.app_copy import copy_app
from tests.edge_handlers.v1_groups import written
from tools.offline_deploy import OfflineDeploy
from twin import lifecycle
from twin.devices.client_device import ClientDevices, write_folder
from twin.devices.identity import CERTIFICATE, KEY
from twin.operator import OperatorClient
from twin.ports import free_ports
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
NAMES = Names("twin")
LIMIT_S = 60


@dataclass
class Site:
    """A deployed stage with the migrated groups, and two client devices that found its core device."""

    state: TwinState
    sensor: mqtt.Client
    horn: mqtt.Client
    sounded: "queue.Queue[bytes]"

    def measure(self, value: int) -> None:
        """What the sensor says."""
        self.sensor.publish("site/measured", json.dumps({"value": value}), qos=1)


def client_device(state: TwinState, folder: Path, thing: str) -> mqtt.Client:
    """A device that has discovered its core, as the stage associated them, and is connected to its broker."""
    write_folder(folder, ClientDevices(state).add(thing), state)
    subprocess.run([sys.executable, "client.py", "discover"], cwd=folder, capture_output=True, timeout=60, check=True)
    (group,) = json.loads((folder / "cores.json").read_text())
    place = group["Cores"][0]["Connectivity"][0]
    context = ssl.create_default_context(cadata="".join(group["CAs"]))
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, thing, protocol=mqtt.MQTTv311)
    client.tls_set_context(context)
    client.connect(place["HostAddress"], place["PortNumber"])
    client.loop_start()
    return client


def migrated(app: Path, folder: Path) -> str:
    """The tables that the command prints for all three groups, and the functions where it says."""
    tables = []
    for file in written(folder).values():
        run = subprocess.run(
            [sys.executable, "-m", "tools.migrate_group", str(file)], cwd=ROOT, capture_output=True, text=True,
            timeout=60, check=True,
        )  # fmt: skip
        tables.append(run.stdout)
    functions, ours = app / "edge_assets" / "handlers" / "functions", ROOT / "tests" / "edge_handlers" / "functions"
    shutil.copytree(functions / "digits", functions / "digits-v1")
    for name, source in (("iris-predict", "iris"), ("gate", "gate"), ("alarm", "alarm")):
        shutil.copytree(ours / source, functions / name)
    shutil.copy(ROOT / "edge_assets" / "models" / "iris" / "model.onnx", functions / "iris-predict")
    return "\n".join(tables)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    app = copy_app(folder / "app")
    text = (app / "config" / "twin.toml").read_text()
    head, _, rest = text.partition("[[models]]\n")
    sections = rest.partition("[runtime]")[2].partition("[observability.models.")[0]
    model = '[[models]]\nfolder = "iris"\ncompiler = "none"\n'
    tables = migrated(app, folder)
    (port,) = free_ports(1)
    clients = f'[fleet]\nnucleus = "classic"\n[client_devices]\nthings = ["sensor-1", "horn-1"]\nport = {port}\n'
    (app / "config" / "twin.toml").write_text(f"{head}{model}\n{tables}\n{clients}[runtime]{sections}")
    state = lifecycle.start(folder / "twin", auth=True)
    try:
        deploy = OfflineDeploy(environment=state.environment(), out=folder / "out", app=app)
        deploy.synth()
        deploy.bootstrap()
        deploy.deploy()
        sensor, horn = (client_device(state, folder / thing, thing) for thing in ("sensor-1", "horn-1"))
        sounded: queue.Queue[bytes] = queue.Queue()
        horn.on_message = lambda _client, _userdata, message: sounded.put(bytes(message.payload))
        subscribed = threading.Event()
        horn.on_subscribe = lambda *_: subscribed.set()
        horn.subscribe("site/horn", qos=1)
        assert subscribed.wait(LIMIT_S)
        yield Site(state, sensor, horn, sounded)
        for client in (sensor, horn):
            client.disconnect()
            client.loop_stop()
    finally:
        lifecycle.stop(folder / "twin")


@pytest.fixture
def operator(site: Site) -> Iterator[OperatorClient]:
    with OperatorClient(site.state) as client:
        yield client


def test_the_walk_throughs_digits_and_iris_answer_the_cloud(operator: OperatorClient) -> None:
    digit = operator.request("v1/digits/in", {"index": 7}, "v1/digits/out", timeout_s=LIMIT_S)
    iris = operator.request("v1/iris/in", {"features": [5.1, 3.5, 1.4, 0.2]}, "v1/iris/out", timeout_s=LIMIT_S)

    assert (digit["function"], digit["topic"]) == ("digits-v1", "v1/digits/in")
    assert isinstance(digit["digit"], int)
    assert iris["iris"] == 0


def test_what_a_device_measures_goes_through_two_functions_to_the_cloud_and_back_to_a_device(
    site: Site, operator: OperatorClient
) -> None:
    with operator.listen("site/alarm") as heard, operator.listen("site/high") as overheard:
        site.measure(5)
        site.measure(50)
        assert json.loads(heard.get(timeout=LIMIT_S)) == {"value": 50, "limit": 10, "heard_on": "site/high"}
        assert site.sounded.get(timeout=LIMIT_S) == b"\x01"

        operator.publish("site/limit", b'{"value": 3}')
        time.sleep(1)  # two ways into one function: the limit comes by the cloud
        site.measure(4)
        assert json.loads(heard.get(timeout=LIMIT_S))["value"] == 4
        assert heard.empty()
        assert overheard.empty(), "what functions say to each other stays on the device"
        assert site.sounded.get(timeout=LIMIT_S) == b"\x01"


def test_a_client_device_says_what_a_route_lets_it_and_no_more(site: Site) -> None:
    site.sensor.publish("site/horn", b"not yours", qos=1).wait_for_publish(LIMIT_S)
    site.measure(60)

    assert site.sounded.get(timeout=LIMIT_S) == b"\x01"
    assert site.sounded.empty()


def test_nothing_but_what_the_subscriptions_said_is_allowed(site: Site) -> None:
    greengrass = boto3.client("greengrassv2", **site.state.client_arguments())
    allowed = {}
    for component in greengrass.list_installed_components(coreDeviceThingName=NAMES.edge_server, topologyFilter="ALL")[
        "installedComponents"
    ]:
        if ".handler." not in component["componentName"]:
            continue
        account = f"arn:aws:greengrass:{site.state.region}:{site.state.account}"
        arn = f"{account}:components:{component['componentName']}:versions:{component['componentVersion']}"
        recipe: dict[str, Any] = json.loads(greengrass.get_component(arn=arn, recipeOutputFormat="JSON")["recipe"])
        control = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
        allowed[component["componentName"].rpartition(".")[2]] = sorted(
            (operation.partition("#")[2], topic)
            for policies in control.values()
            for policy in policies.values()
            for operation in policy["operations"]
            for topic in policy["resources"]
        )

    assert allowed == {
        "DigitsV1": [("PublishToIoTCore", "v1/digits/out"), ("SubscribeToIoTCore", "v1/digits/in")],
        "IrisPredict": [("PublishToIoTCore", "v1/iris/out"), ("SubscribeToIoTCore", "v1/iris/in")],
        "Gate": [
            ("PublishToTopic", "site/high"),
            ("SubscribeToIoTCore", "site/limit"),
            ("SubscribeToTopic", "site/measured"),
        ],
        "Alarm": [
            ("PublishToIoTCore", "site/alarm"),
            ("PublishToTopic", "site/horn"),
            ("SubscribeToTopic", "site/high"),
        ],
    }
