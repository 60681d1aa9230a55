"""Ways to break the rules on what comes together on one device."""

import json
from copy import deepcopy
from typing import Any

from tests.edge_rules.nucleus_breaks import merge
from tests.edge_rules.sample_fleet import Fleet
from tests.edge_rules.ways import Break, configuration, deployment

TOOLS = {f"aws.greengrass.Tool{number}": {"ComponentVersion": "2.0.0"} for number in range(40)}


def tools(count: int) -> dict[str, Any]:
    return dict(list(TOOLS.items())[:count])


def add_tools(count: int) -> Break:
    """More components, beside the two of the sample; the nucleus is none."""
    return lambda fleet: fleet.properties("Deployment")["Components"].update(tools(count))


def one_more_by_dependency(fleet: Fleet) -> None:
    add_tools(16)(fleet)
    fleet.inference["ComponentDependencies"]["aws.greengrass.TokenExchangeService"] = {
        "VersionRequirement": ">=2.0.0 <3.0.0",
        "DependencyType": "SOFT",
    }


def second_group(components: dict[str, Any], *, below: bool = False, **properties: Any) -> Break:
    """Another group with a deployment of its own; `below` makes it the parent of the sample's group."""

    def change(fleet: Fleet) -> None:
        fleet.resources["Line"] = {"Type": "AWS::IoT::ThingGroup", "Properties": properties}
        fleet.resources["LineDeployment"] = deepcopy(fleet.resources["Deployment"])
        fleet.properties("LineDeployment").update(
            TargetArn={"Fn::GetAtt": ["Line", "Arn"]}, Components=components, DeploymentName="line"
        )
        if below:
            fleet.properties("Group")["ParentGroupName"] = {"Ref": "Line"}

    return change


def provisioned(*groups: Any) -> Break:
    """A template that puts each device which joins by it into some groups."""
    thing = {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}, "ThingGroups": ["G0", "G1"]}}
    before, between, after = json.dumps({"Resources": {"thing": thing}}).replace("G1", "G0").split("G0")
    body = {"Fn::Join": ["", [before, groups[0], between, groups[1], after]]}

    def change(fleet: Fleet) -> None:
        fleet.resources["Joining"] = {"Type": "AWS::IoT::ProvisioningTemplate", "Properties": {"TemplateBody": body}}

    return change


def both(*changes: Break) -> Break:
    def change(fleet: Fleet) -> None:
        for each in changes:
            each(fleet)

    return change


def pre_release(fleet: Fleet) -> None:
    fleet.inference["ComponentVersion"] = "1.5.2-rc.1+build"
    fleet.properties("Deployment")["Components"]["plant.Inference"]["ComponentVersion"] = "1.5.2-rc.1+build"


def long_names(count: int) -> dict[str, Any]:
    return {f"{number:0128}": {"ComponentVersion": "1.0.0"} for number in range(count)}


_AUTH, _BRIDGE = "aws.greengrass.clientdevices.Auth", "aws.greengrass.clientdevices.mqtt.Bridge"
_GROUPS = {
    "formatVersion": "2021-03-05",
    "definitions": {"cameras": {"selectionRule": "thingName: camera-* OR thingName: press", "policyName": "ask"}},
    "policies": {"ask": {"say": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:plant/seen"]}}},
}


def classic(fleet: Fleet) -> None:
    for recipe in (fleet.runtime, fleet.inference):
        recipe["Manifests"][0]["Platform"].update(runtime="classic")


def client_devices(*path: str, value: Any = None, **mapping: tuple[str, ...]) -> Break:
    """Auth and the bridge on the classic nucleus; `path` leads to what of the groups is another value.

    A mapping is topic, source, target and, where there is one, the prefix of what it says.
    """
    groups = deepcopy(_GROUPS)
    if path:
        node: Any = groups
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    mappings = {
        name: dict(zip(("topic", "source", "target", "targetTopicPrefix"), each, strict=False))
        for name, each in sorted(mapping.items())
    }

    def change(fleet: Fleet) -> None:
        classic(fleet)
        for name, merged in ((_AUTH, {"deviceGroups": groups}), (_BRIDGE, {"mqttTopicMapping": mappings})):
            entry = {"ComponentVersion": "2.5.7", "ConfigurationUpdate": {"Merge": json.dumps(merged)}}
            fleet.properties("Deployment")["Components"][name] = entry

    return change


def without_auth(fleet: Fleet) -> None:
    client_devices()(fleet)
    del fleet.properties("Deployment")["Components"][_AUTH]


def chosen_in_the_cloud(fleet: Fleet) -> None:
    """Who may connect is a parameter, and whether there is a bridge a condition."""
    client_devices()(fleet)
    components = fleet.properties("Deployment")["Components"]
    fleet.parameters["Groups"] = {"Type": "String"}
    components[_AUTH]["ConfigurationUpdate"]["Merge"] = {"Ref": "Groups"}
    components[_BRIDGE] = {"Fn::If": ["HasBridge", components[_BRIDGE], {"Ref": "AWS::NoValue"}]}


def on_either_nucleus(fleet: Fleet) -> None:
    fleet.properties("Deployment")["Components"]["aws.greengrass.clientdevices.IPDetector"] = {
        "ComponentVersion": "2.2.5"
    }


DEVICE: dict[str, tuple[str, Break]] = {
    "ClientDeviceNucleus": ("Deployment", on_either_nucleus),
    "ClientDeviceAuth": ("Deployment", without_auth),
    "ClientDeviceWildcard": ("Deployment", client_devices("policies", "ask", "say", "resources", value=["*"])),
    "BridgeLoop": (
        "Deployment",
        client_devices(there=("plant/seen", "LocalMqtt", "Pubsub"), back=("plant/+", "Pubsub", "LocalMqtt")),
    ),
    "DeploymentComponents": ("Deployment", add_tools(17)),
    "DeviceStatus": (
        "Deployment",
        lambda fleet: fleet.properties("Deployment")["Components"].update(long_names(12)),
    ),
    "OneVersion": ("Deployment", second_group({"aws.greengrass.Nucleus": {"ComponentVersion": "2.17.0"}}, below=True)),
    "GroupTarget": ("Deployment", deployment("TargetArn", "arn:aws:iot:::thing/press")),
    "PreRelease": ("Inference", pre_release),
    "LetterCase": ("Inference", configuration(requesttopic="plant/digits/request")),
    "BootstrapStep": ("Inference", lambda fleet: fleet.manifest["Lifecycle"].update(bootstrap="true")),
}
DEVICE_ALSO: list[tuple[str, str, Break]] = [
    ("ClientDeviceAuth", "Deployment", client_devices("definitions", value={})),
    ("ClientDeviceAuth", "Deployment", client_devices("definitions", "cameras", "policyName", value="other")),
    ("ClientDeviceWildcard", "Deployment", client_devices("policies", "ask", "say", "operations", value=["*"])),
    (
        "ClientDeviceWildcard",
        "Deployment",
        client_devices("definitions", "cameras", "selectionRule", value="thingName: press OR thingName: *"),
    ),
    (
        "BridgeLoop",
        "Deployment",
        client_devices(
            a=("plant/#", "LocalMqtt", "IotCore"), b=("plant/x", "IotCore", "Pubsub"), c=("+/x", "Pubsub", "LocalMqtt")
        ),
    ),
    (
        "BridgeLoop",
        "Deployment",
        client_devices(up=("#", "LocalMqtt", "IotCore", "site/"), down=("site/#", "IotCore", "LocalMqtt")),
    ),
    (
        "BridgeLoop",
        "Deployment",
        client_devices(up=("+/#", "LocalMqtt", "Pubsub"), down=("plant", "Pubsub", "LocalMqtt")),
    ),
    ("LetterCase", "Deployment", merge({"requesttopic": "plant/digits/request"})),
    ("LetterCase", "Deployment", merge({"labels": {"A": 1, "a": 2}})),
    (
        "LetterCase",
        "Deployment",
        lambda fleet: fleet.properties("Deployment")["Components"].update(
            {"aws.greengrass.Cli": {"ComponentVersion": "2.0.0"}, "aws.greengrass.cli": {"ComponentVersion": "2.0.0"}}
        ),
    ),
    ("DeploymentComponents", "Deployment", one_more_by_dependency),
    (
        "DeploymentComponents",
        "Deployment",
        both(add_tools(8), second_group(dict(list(TOOLS.items())[8:17]), below=True)),
    ),
    (
        "DeploymentComponents",
        "Deployment",
        both(
            add_tools(8),
            second_group(dict(list(TOOLS.items())[8:17]), ThingGroupName="line"),
            provisioned({"Ref": "Group"}, "line"),
        ),
    ),
    ("DeviceStatus", "Deployment", both(add_tools(13), second_group(tools(13), below=True))),
]
DEVICE_KEEPS: dict[str, Break] = {
    "client devices with named rights and ways that end": client_devices(
        there=("plant/seen", "LocalMqtt", "Pubsub"),
        on=("plant/seen", "LocalMqtt", "IotCore"),
        back=("plant/answer", "Pubsub", "LocalMqtt"),
    ),
    "all that devices say goes up below a prefix, and one topic comes down": client_devices(
        up=("#", "LocalMqtt", "IotCore", "site/"), down=("site/orders", "IotCore", "LocalMqtt")
    ),
    "what comes back once below a prefix is taken by nobody": client_devices(
        seen=("+/seen", "LocalMqtt", "Pubsub", "plant/"), back=("plant/+/seen", "Pubsub", "LocalMqtt")
    ),
    "client devices that a parameter lets in": chosen_in_the_cloud,
    "components that a condition chooses": lambda fleet: fleet.properties("Deployment").update(
        Components={"Fn::If": ["Small", {}, {}]}
    ),
    "keys of different objects that differ in case only": merge({"labels": {"A": 1}, "more": {"a": 2}}),
    "a merged value under the key of the recipe": merge({"requestTopic": "plant/digits/request"}),
    "18 components": add_tools(16),
    "18 components of two groups that name the same ones": both(add_tools(8), second_group(tools(8), below=True)),
    "many components of two groups that share no device": both(
        add_tools(12), second_group(dict(list(TOOLS.items())[12:24]))
    ),
    "a deployment to a thing, for the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="classic"),
        fleet.runtime["Manifests"][0]["Platform"].update(runtime="classic"),
        fleet.properties("Deployment").update(TargetArn="arn:aws:iot:::thing/press", IotJobConfiguration={}),
    ),
    "names that just fit": lambda fleet: fleet.properties("Deployment")["Components"].update(long_names(11)),
}
