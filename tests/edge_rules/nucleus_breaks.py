"""One way to break each rule that comes from a nucleus, and more of them."""

import json
from typing import Any

from tests.edge_rules.sample_fleet import Fleet
from tests.edge_rules.ways import Break, access, configuration, deployment, script


def dependencies(count: int) -> Break:
    more = {
        f"plant.model.{number:030}": {"VersionRequirement": ">=1.0.0 <2.0.0", "DependencyType": "SOFT"}
        for number in range(count)
    }
    return lambda fleet: fleet.inference["ComponentDependencies"].update(more)


def many_policies(fleet: Fleet) -> None:
    control = fleet.inference["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    for number in range(6):
        resources = [f"plant/{'x' * 180}/{number}/{each}" for each in range(4)]
        policy = {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": resources}
        control["aws.greengrass.ipc.mqttproxy"][f"more-{number}"] = policy


def requirement(text: str) -> Break:
    return lambda fleet: fleet.inference["ComponentDependencies"]["plant.Runtime"].update(VersionRequirement=text)


def merge(content: Any) -> Break:
    return deployment("Components/plant.Inference/ConfigurationUpdate", {"Merge": json.dumps(content)})


def nested(levels: int) -> Any:
    return {"deeper": nested(levels - 1)} if levels else 1


def renamed(name: str) -> Break:
    return lambda fleet: (
        fleet.inference.update(ComponentName=name)
        or fleet.properties("Deployment")["Components"].update(
            {name: fleet.properties("Deployment")["Components"].pop("plant.Inference")}
        )
    )


NUCLEUS: dict[str, Break] = {
    "LifecycleKey": lambda fleet: fleet.manifest["Lifecycle"]["run"].update(timeout=5),
    "StartupStep": lambda fleet: fleet.manifest["Lifecycle"].update(startup="true"),
    "StepTimeout": lambda fleet: fleet.manifest["Lifecycle"].update(install={"Script": "true", "Timeout": 301}),
    "ScriptVariable": script('exec sh -c "{configuration:/command}"'),
    "ComponentName": renamed("plant.Inference.install"),
    "ComponentDescription": lambda fleet: fleet.inference.update(ComponentDescription="100 % of it"),
    "UnitSize": dependencies(13),
    "RecipeObjects": configuration(**{key: dict.fromkeys(map(str, range(60)), 1) for key in ("a", "b")}),
    "AccessControlSize": many_policies,
    "IpcTopicCharacter": access(resources=["plant/{iot:thingName}/request"]),
    "ConfigurationShape": configuration(deep=nested(12)),
    "ArtifactName": lambda fleet: fleet.manifest["Artifacts"].extend(
        {"Uri": f"s3://plant/artifacts/{digest * 64}/more.zip"} for digest in "ab"
    ),
    "ComponentType": lambda fleet: fleet.inference.update(ComponentType="aws.greengrass.lambda"),
}
#: More ways to break a rule.
NUCLEUS_ALSO: list[tuple[str, str, Break]] = [
    ("DependencyRange", "Inference", requirement("1.4.7")),
    ("DependencyRange", "Inference", requirement("=1.4.7")),
    ("ConfigurationValueSize", "Inference", configuration(labels='"' * 512)),
    ("ConfigurationValueSize", "Inference", configuration(labels=["x" * 500, "x" * 518])),
    ("ConfigurationValueSize", "Deployment", merge({"environment": {"LABELS": "x" * 1023}})),
    ("ConfigurationShape", "Deployment", merge(nested(13))),
    ("LifecycleKey", "Inference", lambda fleet: fleet.manifest["Lifecycle"].update(setenv={"A": "b"})),
    ("LifecycleKey", "Inference", lambda fleet: fleet.manifest["Lifecycle"].update(Install="true")),
    ("StepTimeout", "Inference", lambda fleet: fleet.manifest["Lifecycle"]["run"].update(Timeout=True)),
    ("StepTimeout", "Inference", lambda fleet: fleet.manifest["Lifecycle"]["run"].update(Timeout="{configuration:/t}")),
    ("ScriptVariable", "Inference", script('cat "{artifacts:file}"')),
    ("ComponentName", "Inference", renamed("core.ggipcd")),
    ("ComponentName", "Inference", renamed("plant@1")),
    ("ComponentName", "Inference", renamed("..")),
    ("ComponentDescription", "Inference", lambda fleet: fleet.inference.update(ComponentDescription="a\nUser=root")),
    ("ComponentDescription", "Inference", lambda fleet: fleet.inference.update(ComponentDescription="a\\")),
    ("IpcTopicCharacter", "Inference", access(resources=["plant/?"])),
    (
        "IpcTopicCharacter",
        "Inference",
        lambda fleet: (
            fleet.manifest["Platform"].update(runtime="aws_nucleus_classic"),
            access(resources=["plant/{artifacts:path}/request"])(fleet),
        ),
    ),
    ("ConfigurationShape", "Inference", configuration(wide=dict.fromkeys(map(str, range(65)), 1))),
]
#: Near misses.
NUCLEUS_KEEPS: dict[str, Break] = {
    "values that just fit": configuration(
        plain="x" * 1022, wide="ä" * 511, all=["x" * 500, "x" * 517], deep=nested(11)
    ),
    "merged values that just fit": merge({"plain": "x" * 1022, "deep": nested(11)}),
    "what is merged into AWS's own component": deployment(
        "Components/aws.greengrass.Nucleus/ConfigurationUpdate", {"Merge": json.dumps({"jvmOptions": "x" * 1100})}
    ),
    "a long value for the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="classic"),
        configuration(labels="x" * 1100)(fleet),
    ),
    "a run step that may take long": lambda fleet: fleet.manifest["Lifecycle"]["run"].update(Timeout=3600),
    "the device's name on the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="aws_nucleus_classic"),
        access(resources=["plant/{iot:thingName}/request"])(fleet),
    ),
    "a shadow's topic": access(resources=["$aws/things/press/shadow/update"]),
    "many parts for the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="classic"),
        dependencies(13)(fleet),
        configuration(a=dict.fromkeys(map(str, range(120)), 1))(fleet),
    ),
}
