"""Three groups of Greengrass V1, migrated by the command, run on a core device of the twin.

Client devices speak to it by AWS's bridge, whose code is not here: a component plays it on the device's local topics.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from config.names import Names
from tests.app_copy import copy_app
from tests.edge_handlers.v1_groups import written
from tools.cdk_cli import ROOT
from tools.offline_deploy import OfflineDeploy
from twin import lifecycle
from twin.operator import OperatorClient
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
NAMES = Names("twin")
BRIDGE = "com.example.Bridge"
LIMIT_S = 60
#: What a bridge does with the routes of client devices: lines of a file to local topics, and local messages to a file.
BRIDGE_CODE = """
import json, pathlib, sys, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import BinaryMessage, PublishMessage
folder = pathlib.Path(sys.argv[1])
client = GreengrassCoreIPCClientV2(executor=None)
def heard(event):
    with (folder / "horn").open("ab") as file:
        file.write(event.binary_message.message)
client.subscribe_to_topic(topic="site/horn", on_stream_event=heard)
(folder / "ready").touch()
sent = 0
while True:
    lines = (folder / "measured").read_text().splitlines() if (folder / "measured").exists() else []
    for line in lines[sent:]:
        message = PublishMessage(binary_message=BinaryMessage(message=line.encode()))
        client.publish_to_topic(topic="site/measured", publish_message=message)
    sent = len(lines)
    time.sleep(0.05)
"""


@dataclass
class Site:
    """A deployed stage with the migrated groups, and the folder of what plays the bridge."""

    state: TwinState
    bridge: Path

    def measure(self, value: int) -> None:
        """What a client device would publish."""
        with (self.bridge / "measured").open("a") as file:
            file.write(json.dumps({"value": value}) + "\n")


def wait_until(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
    (app / "config" / "twin.toml").write_text(f"{head}{model}\n{tables}\n[runtime]{sections}")
    state = lifecycle.start(folder / "twin")
    try:
        deploy = OfflineDeploy(environment=state.environment(), out=folder / "out", app=app)
        deploy.synth()
        deploy.bootstrap()
        deploy.deploy()
        deploy_bridge(state, folder)
        yield Site(state, folder)
    finally:
        lifecycle.stop(folder / "twin")


def deploy_bridge(state: TwinState, folder: Path) -> None:
    """Bring the component that plays the bridge to the device, by a group of its own."""
    (folder / "bridge.py").write_text(BRIDGE_CODE)
    access = {
        "in": {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["site/measured"]},
        "out": {"operations": ["aws.greengrass#SubscribeToTopic"], "resources": ["site/horn"]},
    }
    script = f"exec {sys.executable} {folder / 'bridge.py'} {folder}"
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": BRIDGE,
        "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": {"accessControl": {"aws.greengrass.ipc.pubsub": access}}},
        "Manifests": [
            {"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": {"Script": script}}, "Artifacts": []}
        ],
    }
    iot, greengrass = (boto3.client(name, **state.client_arguments()) for name in ("iot", "greengrassv2"))
    greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
    target = iot.create_thing_group(thingGroupName="bridges")["thingGroupArn"]
    iot.add_thing_to_thing_group(thingGroupName="bridges", thingName=NAMES.edge_server)
    greengrass.create_deployment(targetArn=target, components={BRIDGE: {"componentVersion": "1.0.0"}})
    wait_until((folder / "ready").exists)


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
        wait_until(lambda: (site.bridge / "horn").exists() and (site.bridge / "horn").read_bytes() == b"\x01")

        operator.publish("site/limit", b'{"value": 3}')
        time.sleep(1)  # two ways into one function: the limit comes by the cloud
        site.measure(4)
        assert json.loads(heard.get(timeout=LIMIT_S))["value"] == 4
        assert heard.empty()
        assert overheard.empty(), "what functions say to each other stays on the device"


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
