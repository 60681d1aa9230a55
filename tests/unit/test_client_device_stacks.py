"""What a stage with client devices becomes: one synth through the policy gate, and what the tools say of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from config.client_devices import CONNECTED_THING
from config.loader import load_stage, read_context
from config.public_components import AUTH, BRIDGE, IP_DETECTOR, MOQUETTE, PUBLIC_COMPONENTS
from edge_constructs.identities import THING_NAME
from edge_constructs.synth import PolicyGate, new_app
from stacks import edgewright
from tools.bill import bill_of
from tools.cloud_assembly import NOTHING, read_assembly
from tools.plan_changes import compare

STAGE = """region = "eu-west-1"
[[models]]
folder = "digits"
[fleet]
nucleus = "classic"
file = "lab.csv"
[runtime]
python = "host"
architecture = "host"
[[handlers]]
name = "gate"
folder = "digits"
handler = "gg_ml_predict.function_handler"
[[routes]]
source = "devices"
topic = "site/measured"
target = "gate"
[[routes]]
source = "cloud"
topic = "site/orders"
target = "devices"
[[routes]]
source = "devices"
topic = "site/alarm"
target = "cloud"
[client_devices]
file = "cameras.csv"
models = ["digits"]
"""
ROWS = "device,core\ncamera-1,line-1\ncamera-2,edgewright-lab-edge-server\ncamera-3,line-1\n"


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "lab.toml").write_text(STAGE)
    (folder / "lab.csv").write_text("device,ring\nline-1,canary\nline-2,early\n")
    (folder / "cameras.csv").write_text(ROWS)
    app = new_app(read_context(), outdir=folder / "out")
    gate = PolicyGate(app)
    edgewright.define_stacks(app, load_stage("lab", folder))
    return gate.synth()


def resources(assembly: Path, stack: str, kind: str) -> list[dict[str, Any]]:
    template = json.loads((assembly / f"{stack}.template.json").read_text())
    return [each["Properties"] for each in template["Resources"].values() if each["Type"] == kind]


def listed(assembly: Path, properties: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = json.loads((assembly / f"artifacts/devices/{properties['ListSha256']}.json").read_text())
    return found


def deployed(assembly: Path, ring: str) -> dict[str, Any]:
    (found,) = [
        each["Components"]
        for each in resources(assembly, "Inference", "AWS::GreengrassV2::Deployment")
        if each["DeploymentName"].partition(" ")[0] == ring
    ]
    return {name: entry for name, entry in found.items() if name.startswith("aws.")}


def test_a_ring_with_client_devices_gets_awss_components_pinned(assembly: Path) -> None:
    canary, early = deployed(assembly, "edgewright-lab-canary"), deployed(assembly, "edgewright-lab-early")

    assert early == {}
    assert {name: entry["ComponentVersion"] for name, entry in canary.items()} == {
        name: PUBLIC_COMPONENTS[name].version for name in (AUTH, MOQUETTE, BRIDGE, IP_DETECTOR)
    }
    assert "ConfigurationUpdate" not in canary[MOQUETTE]
    bridge = canary[BRIDGE]["ConfigurationUpdate"]
    assert bridge["Reset"] == ["/mqttTopicMapping"]
    assert json.loads(bridge["Merge"])["mqttTopicMapping"] == {
        "LocalMqtt-Pubsub-edgewright-lab-digits-request": {
            "topic": "edgewright/lab/digits/request",
            "source": "LocalMqtt",
            "target": "Pubsub",
        },
        "Pubsub-LocalMqtt-edgewright-lab-digits-response": {
            "topic": "edgewright/lab/digits/response",
            "source": "Pubsub",
            "target": "LocalMqtt",
        },
        "LocalMqtt-IotCore-site-alarm": {"topic": "site/alarm", "source": "LocalMqtt", "target": "IotCore"},
        "LocalMqtt-Pubsub-site-measured": {"topic": "site/measured", "source": "LocalMqtt", "target": "Pubsub"},
        "IotCore-LocalMqtt-site-orders": {"topic": "site/orders", "source": "IotCore", "target": "LocalMqtt"},
    }


def test_a_rings_cores_let_their_own_client_devices_in_and_nobody_else(assembly: Path) -> None:
    rules = {
        ring: json.loads(deployed(assembly, ring)[AUTH]["ConfigurationUpdate"]["Merge"])["deviceGroups"]
        for ring in ("edgewright-lab-canary", "edgewright-lab")
    }

    assert {ring: groups["definitions"]["client-devices"]["selectionRule"] for ring, groups in rules.items()} == {
        "edgewright-lab-canary": "thingName: camera-1 OR thingName: camera-3",
        "edgewright-lab": "thingName: camera-2",
    }
    policy = rules["edgewright-lab"]["policies"]["client-devices"]
    assert policy["connect"]["resources"] == [f"mqtt:clientId:{CONNECTED_THING}"]
    assert not any("*" in resource for each in policy.values() for resource in each["resources"])


def test_a_core_may_ask_who_its_own_are_and_trusts_them_for_a_day_without_its_line(assembly: Path) -> None:
    merge = json.loads(deployed(assembly, "edgewright-lab")[AUTH]["ConfigurationUpdate"]["Merge"])
    (own,) = [
        statement["Resource"]
        for role in resources(assembly, "Identity", "AWS::IAM::Role")
        for policy in role.get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Action"] == ["greengrass:ListClientDevicesAssociatedWithCoreDevice"]
    ]

    assert merge["security"] == {"clientDeviceTrustDurationMinutes": 1440}
    assert json.dumps(own).endswith(':coreDevices:${credentials-iot:ThingName}"]]}]')


def test_things_and_associations_are_listed_in_files(assembly: Path) -> None:
    cores, clients = resources(assembly, "Fleet", "Custom::DeviceRegistry")
    (associations,) = resources(assembly, "Inference", "Custom::ClientDeviceAssociations")

    assert set(listed(assembly, cores)) == {"edgewright-lab-edge-server", "line-1", "line-2"}
    assert listed(assembly, clients) == dict.fromkeys(("camera-1", "camera-2", "camera-3"), "client-devices")
    assert clients["ThingGroupName"] == associations["ThingGroupName"] == "edgewright-lab-clients"
    assert listed(assembly, associations) == {"edgewright-lab-edge-server": "camera-2", "line-1": "camera-1 camera-3"}


def test_their_group_keeps_no_fleet_index_on(assembly: Path) -> None:
    (indexing,) = resources(assembly, "Provisioning", "Custom::FleetProvisioning")

    assert "edgewright-lab-clients" in indexing["RingGroupNames"]


def statements(assembly: Path, stack: str, name: str) -> dict[str, list[str]]:
    """Action to what it is allowed on, without what ARNs begin with."""
    (found,) = [
        each["PolicyDocument"]["Statement"]
        for each in resources(assembly, stack, "AWS::IoT::Policy")
        if each["PolicyName"] == name
    ]
    allowed: dict[str, list[str]] = {}
    for statement in found:
        actions, places = (
            each if isinstance(each, list) else [each] for each in (statement["Action"], statement["Resource"])
        )
        for action in actions:
            allowed[action if action not in allowed else f"{action} too"] = [
                each if isinstance(each, str) else each["Fn::Join"][1][-1].removeprefix(":iot:*:*:") for each in places
            ]
    return allowed


def test_client_devices_go_before_their_policy_group_and_type(assembly: Path) -> None:
    template = json.loads((assembly / "Fleet.template.json").read_text())["Resources"]
    (needed,) = [
        each["DependsOn"]
        for each in template.values()
        if each["Type"] == "Custom::DeviceRegistry" and each["Properties"]["PolicyName"].endswith("client-device")
    ]

    kinds = {template[name]["Type"] for name in needed}
    assert kinds >= {"AWS::IoT::Policy", "AWS::IoT::ThingGroup", "AWS::IoT::ThingType"}


def test_a_client_device_may_discover_and_connect_as_itself(assembly: Path) -> None:
    assert statements(assembly, "Fleet", "edgewright-lab-client-device") == {
        "iot:Connect": [f"client/{THING_NAME}"],
        "greengrass:Discover": ["thing/camera-1", "thing/camera-2", "thing/camera-3"],
    }


def test_a_core_may_do_for_client_devices_what_its_components_need(assembly: Path) -> None:
    allowed = statements(assembly, "Identity", "edgewright-lab-core-device")

    assert {action for action in allowed if "onnectivity" in action or "Client" in action or "Authorit" in action} == {
        "greengrass:GetConnectivityInfo",
        "greengrass:PutCertificateAuthorities",
        "greengrass:UpdateConnectivityInfo",
        "greengrass:VerifyClientDeviceIdentity",
        "greengrass:VerifyClientDeviceIoTCertificateAssociation",
    }
    assert allowed["iot:Receive too"] == [f"topic*/$aws/things/{THING_NAME}-gci/shadow/*"]
    assert "topicfilter/site/orders" in allowed["iot:Subscribe"]
    assert "topic/site/alarm" in allowed["iot:Publish"]
    assert "topic/site/orders" not in allowed["iot:Publish"]
    assert not any("site/measured" in place for places in allowed.values() for place in places)


def test_plan_and_bill_know_client_devices(assembly: Path) -> None:
    found = read_assembly(assembly)

    plan, bill = compare(NOTHING, found), bill_of(found)

    assert {name for name, ring in plan.devices.joined.items() if ring == "client-devices"} == {
        "camera-1",
        "camera-2",
        "camera-3",
    }
    (greengrass,) = [item for item in bill.items if item.name == "Greengrass devices"]
    assert greengrass.basis == "3 registered"
    (clients,) = [item for item in bill.items if item.name == "Client devices"]
    assert (clients.usd, clients.basis.partition(":")[0]) == (0, "3 registered")
    by_target = {target.name: target for target in plan.targets}
    assert AUTH in str(by_target["edgewright-lab-canary"])
