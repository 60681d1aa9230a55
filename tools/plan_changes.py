"""The difference between two assemblies: what it does to resources of the cloud, and as their devices feel it."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import COMPONENT, DEPLOYMENT, KEPT_COMPONENT
from tools.cloud_assembly import Assembly, Stack, Target

#: Properties that CloudFormation cannot change in place, of the types that the app uses (resource provider schemas).
_CREATE_ONLY: dict[str, tuple[str, ...]] = {
    "AWS::EC2::Instance": ("ImageId", "NetworkInterfaces", "SubnetId", "KeyName", "BlockDeviceMappings"),
    "AWS::EC2::SecurityGroup": ("GroupName", "GroupDescription", "VpcId"),
    "AWS::EC2::Subnet": ("CidrBlock", "VpcId", "AvailabilityZone"),
    "AWS::EC2::VPC": ("CidrBlock",),
    "AWS::IAM::InstanceProfile": ("InstanceProfileName", "Path"),
    "AWS::IAM::Role": ("RoleName", "Path"),
    "AWS::IoT::Policy": ("PolicyName",),
    "AWS::IoT::ProvisioningTemplate": ("TemplateName", "TemplateType"),
    "AWS::IoT::RoleAlias": ("RoleAlias",),
    "AWS::IoT::Thing": ("ThingName",),
    "AWS::IoT::ThingGroup": ("ThingGroupName", "ParentGroupName"),
    "AWS::IoT::ThingType": ("ThingTypeName", "ThingTypeProperties"),
    "AWS::IoT::TopicRule": ("RuleName",),
    "AWS::Lambda::Function": ("FunctionName", "PackageType"),
    "AWS::Logs::LogGroup": ("LogGroupName", "LogGroupClass"),
    "AWS::S3::Bucket": ("BucketName",),
    "AWS::SNS::Topic": ("TopicName", "FifoTopic"),
    "AWS::SSM::Parameter": ("Name",),
    "AWS::StepFunctions::StateMachine": ("StateMachineName", "StateMachineType"),
}
_POLICIES = {
    "AWS::IAM::Role": ("AssumeRolePolicyDocument", "Policies", "ManagedPolicyArns"),
    "AWS::IAM::Policy": ("PolicyDocument",),
    "AWS::IAM::ManagedPolicy": ("PolicyDocument",),
    "AWS::IoT::Policy": ("PolicyDocument",),
    "AWS::S3::BucketPolicy": ("PolicyDocument",),
    "AWS::S3::Bucket": ("BucketEncryption", "PublicAccessBlockConfiguration"),
    "AWS::KMS::Key": ("KeyPolicy", "EnableKeyRotation"),
    "AWS::SNS::TopicPolicy": ("PolicyDocument",),
    "AWS::Lambda::Permission": ("Action", "FunctionName", "Principal"),
    "AWS::IoT::RoleAlias": ("RoleArn", "CredentialDurationSeconds"),
    "AWS::EC2::SecurityGroup": ("SecurityGroupIngress", "SecurityGroupEgress"),
    "AWS::EC2::Instance": ("MetadataOptions", "IamInstanceProfile"),
}


@dataclass(frozen=True, order=True)
class SecurityChange:
    """A right, a trust or a network rule that comes or goes.

    Attributes:
        resource: `Stack/LogicalId`.
        sign: `+` or `-`.
        what: The statement or setting, as text.
    """

    resource: str
    sign: str
    what: str


@dataclass(frozen=True, order=True)
class Replacement:
    """A resource that CloudFormation deletes, or deletes and makes anew.

    Attributes:
        resource: `Stack/LogicalId`.
        type: Its type.
        kind: `deleted` or `replaced`.
        because: The property that cannot change in place, or empty.
        expected: True for what every update of a fleet replaces: component versions and deployments.
    """

    resource: str
    type: str
    kind: str
    because: str
    expected: bool


def security_changes(before: FleetView, after: FleetView, staying: Collection[str]) -> tuple[SecurityChange, ...]:
    """Compare rights, trust and network rules.

    Args:
        before: What is deployed.
        after: What would be.
        staying: Stacks of `before` that no deploy touches.
    """
    old = {each for each in _settings(before) if each[0].partition("/")[0] not in staying}
    new = set(_settings(after))
    gone = (SecurityChange(resource, "-", what) for resource, what in old - new)
    come = (SecurityChange(resource, "+", what) for resource, what in new - old)
    return tuple(sorted([*gone, *come]))


def replacements(before: FleetView, after: FleetView, staying: Collection[str]) -> tuple[Replacement, ...]:
    """Find resources that do not survive the change in place.

    Args:
        before: What is deployed.
        after: What would be.
        staying: Stacks of `before` that no deploy touches.
    """
    now = {(each.stack, each.logical_id): each for each in after.resources}
    found = []
    for old in before.resources:
        if old.stack in staying:
            continue
        place = f"{old.stack}/{old.logical_id}"
        new = now.get((old.stack, old.logical_id))
        expected = old.type in {COMPONENT, KEPT_COMPONENT, DEPLOYMENT}
        if new is None or new.type != old.type:
            found.append(Replacement(place, old.type, "deleted", "", expected))
        elif reason := _reason(old, new):
            found.append(Replacement(place, old.type, "replaced", reason, expected))
    return tuple(sorted(found))


def _reason(old: Resource, new: Resource) -> str:
    if old.type == DEPLOYMENT:
        keys: tuple[str, ...] = tuple(sorted({*old.properties, *new.properties} - {"Tags"}))
    elif old.type in {COMPONENT, KEPT_COMPONENT}:
        keys = ("InlineRecipe", "LambdaFunction")
    else:
        keys = _CREATE_ONLY.get(old.type, ())
    return ", ".join(key for key in keys if _text(old, key) != _text(new, key))


def _text(resource: Resource, key: str) -> str:
    value = resource.properties.get(key)
    # Lists of settings are compared as written, texts as what CloudFormation makes of them.
    return resource.text(value) if not isinstance(value, list) else json.dumps(value, sort_keys=True)


def _settings(view: FleetView) -> Iterator[tuple[str, str]]:
    for resource in view.resources:
        for key in _POLICIES.get(resource.type, ()):
            if key in resource.properties:
                for text in _statements(resource, key, resource.properties[key]):
                    yield f"{resource.stack}/{resource.logical_id}", text


def _statements(resource: Resource, key: str, value: object) -> Iterator[str]:
    if isinstance(value, dict) and "Statement" in value:
        listed = value["Statement"]
        for statement in listed if isinstance(listed, list) else [listed]:
            yield _statement(resource, statement)
    elif key == "Policies" and isinstance(value, list):
        for policy in value:
            yield from _statements(resource, "PolicyDocument", policy.get("PolicyDocument"))
    elif isinstance(value, list):
        for each in value:
            yield f"{key}: {_flat(resource, each)}"
    else:
        yield f"{key}: {_flat(resource, value)}"


def _statement(resource: Resource, statement: dict[str, object]) -> str:
    parts = [str(statement.get("Effect", "Allow")), ", ".join(resource.texts(statement.get("Action")))]
    if "Resource" in statement:
        parts.append("on " + ", ".join(resource.texts(statement["Resource"])))
    if "Principal" in statement:
        parts.append(f"for {_flat(resource, statement['Principal'])}")
    if "Condition" in statement:
        parts.append(f"if {_flat(resource, statement['Condition'])}")
    return " ".join(parts)


def _flat(resource: Resource, value: object) -> str:
    if isinstance(value, dict) and not any(key == "Ref" or key.startswith("Fn::") for key in value):
        return ", ".join(f"{key}={_flat(resource, each)}" for key, each in value.items())
    return resource.text(value)


@dataclass(frozen=True)
class Upgrade:
    """A component that gets another version.

    Attributes:
        name: The component.
        before: Version now.
        after: Version then.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class TargetPlan:
    """What happens to one target.

    Attributes:
        name: Thing group or thing.
        state: `added`, `removed`, `changed` or `unchanged`.
        added: Component to version.
        removed: Component to version: these are uninstalled.
        upgraded: Components with another version.
        reconfigured: Components whose configuration is merged anew.
        restarted: Components that stop and start, sorted.
        rollout: What of rate, abort and policies changes, a line each.
        bytes_per_device: What a device downloads.
        disk_per_device: What that takes on its disk, where a zip stays beside what it is unpacked to.
        places: How many components a device has while it updates, what the update takes away included; 0 where nucleus
            lite runs none.
        devices: How many; None if unknown.
        fleet_bytes: What all devices download; None if their number is unknown.
        rollout_minutes: Until the last device is told, from the rate; None if unknown.
    """

    name: str
    state: str
    added: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    upgraded: tuple[Upgrade, ...] = ()
    reconfigured: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    rollout: tuple[str, ...] = ()
    bytes_per_device: int = 0
    disk_per_device: int = 0
    places: int = 0
    devices: int | None = None
    fleet_bytes: int | None = None
    rollout_minutes: int | None = None


@dataclass(frozen=True)
class DevicePlan:
    """What becomes of the devices that the registry lists.

    Attributes:
        before: How many it lists now.
        after: How many then.
        joined: Thing name to ring.
        left: Thing name to the ring that it was in: the registry takes the thing and its certificates away.
        moved: Thing name to the rings before and after.
        contested: Devices that a stack which stays has registered: the deploy refuses them.
    """

    before: int = 0
    after: int = 0
    joined: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    contested: tuple[str, ...] = ()


@dataclass(frozen=True)
class StayingStack:
    """A stack that the new version does not have: no deploy touches it, it stays until somebody destroys it.

    Attributes:
        name: CloudFormation's name of it.
        region: Its region; empty if the assembly leaves it to the deploy.
        devices: How many devices its registry has.
        imports: Exports that it uses and that the deploy would take away: it must go before the deploy.
    """

    name: str
    region: str
    devices: int = 0
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class StackPlan:
    """Which stacks there are.

    Attributes:
        added: Stacks that are new.
        staying: Stacks that no longer belong to the app.
        kept: How many are updated in place.
    """

    added: tuple[Stack, ...] = ()
    staying: tuple[StayingStack, ...] = ()
    kept: int = 0


@dataclass(frozen=True)
class Plan:
    """All that a change would do.

    Attributes:
        stacks: Which stacks are new, and which stay behind.
        devices: Which devices join, leave and move.
        targets: One for each target of either assembly, by name.
        reused_versions: Components whose content changes under the version that devices have already.
        security: Statements and rules that come and go.
        replaced: Resources that CloudFormation deletes, or deletes and makes anew.
    """

    stacks: StackPlan
    devices: DevicePlan
    targets: tuple[TargetPlan, ...]
    reused_versions: tuple[str, ...]
    security: tuple[SecurityChange, ...]
    replaced: tuple[Replacement, ...]


def compare(before: Assembly, after: Assembly, devices: Mapping[str, int] | None = None) -> Plan:
    """Compare two assemblies.

    Args:
        before: What is deployed.
        after: What would be.
        devices: Target to its number of devices, where the templates do not say or are wrong.
    """
    staying = left_behind(before, after)
    deployed = {name: target for name, target in before.targets.items() if target.stack not in staying}
    names = sorted({*deployed, *after.targets})
    return Plan(
        stacks=_stacks(before, after, staying),
        devices=_devices(before, after, staying),
        targets=tuple(_target(deployed, after, name, devices or {}) for name in names),
        reused_versions=tuple(
            f"{name} {version}"
            for (name, version), found in sorted(after.components.items())
            # In another region nobody has the version yet.
            if deployed and (old := before.components.get((name, version))) and old.content != found.content
        ),
        security=security_changes(before.view, after.view, staying),
        replaced=replacements(before.view, after.view, staying),
    )


def left_behind(before: Assembly, after: Assembly) -> set[str]:
    """Find the stacks of `before`, as it names them, that are none of `after`'s: other names or other regions."""
    there = set(after.stacks.values())
    return {name for name, stack in before.stacks.items() if stack not in there}


def _stacks(before: Assembly, after: Assembly, staying: Collection[str]) -> StackPlan:
    there = set(before.stacks.values())
    exports = set(_exports(after))
    registered = {each.stack: len(each.devices) for each in before.registers}
    return StackPlan(
        added=tuple(sorted(stack for stack in after.stacks.values() if stack not in there)),
        staying=tuple(
            StayingStack(
                before.stacks[name].name,
                before.stacks[name].region,
                registered.get(name, 0),
                # A stack that stays keeps its own exports.
                tuple(sorted(set(_imports(before.view.templates[name])) - exports - set(_exports(before, staying)))),
            )
            for name in sorted(staying, key=lambda name: before.stacks[name])
        ),
        kept=len(before.stacks) - len(staying),
    )


def _exports(assembly: Assembly, stacks: Collection[str] | None = None) -> Iterator[str]:
    for name, template in assembly.view.templates.items():
        for output in (template.get("Outputs") or {}).values():
            if "Export" in output and (stacks is None or name in stacks):
                yield str(output["Export"].get("Name"))


def _imports(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key == "Fn::ImportValue" and isinstance(each, str):
                # What another app exports is none of this one's business.
                if not re.match("CdkBootstrap-", each):
                    yield each
            else:
                yield from _imports(each)
    elif isinstance(value, list):
        for each in value:
            yield from _imports(each)


def _devices(before: Assembly, after: Assembly, staying: Collection[str]) -> DevicePlan:
    old = {name: ring for each in before.registers if each.stack not in staying for name, ring in each.devices.items()}
    new = {name: ring for each in after.registers for name, ring in each.devices.items()}
    regions = {after.stacks[each.stack].region for each in after.registers}
    held = {
        name
        for each in before.registers
        if each.stack in staying and before.stacks[each.stack].region in regions
        for name in each.devices
    }
    return DevicePlan(
        before=len(old),
        after=len(new),
        joined={name: ring for name, ring in new.items() if name not in old},
        left={name: ring for name, ring in old.items() if name not in new},
        moved={name: (ring, new[name]) for name, ring in old.items() if new.get(name, ring) != ring},
        contested=tuple(sorted(held & set(new))),
    )


def _target(before: Mapping[str, Target], after: Assembly, name: str, devices: Mapping[str, int]) -> TargetPlan:
    nothing = Target(name, {}, {}, {})
    old, new = before.get(name, nothing), after.targets.get(name, nothing)
    added = {each: version for each, version in new.components.items() if each not in old.components}
    removed = {each: version for each, version in old.components.items() if each not in new.components}
    upgraded = tuple(
        Upgrade(each, old.components[each], version)
        for each, version in new.components.items()
        if old.components.get(each, version) != version
    )
    reconfigured = tuple(
        each
        for each in new.components
        if each in old.components and old.configuration.get(each) != new.configuration.get(each)
    )
    rollout = tuple(_differences(old.rollout, new.rollout)) if old is not nothing and new is not nothing else ()
    changed = {*added, *(each.name for each in upgraded)}
    count = devices.get(name, new.devices if new.devices is not None else old.devices)
    fetched = [found for each in changed if (found := after.components.get((each, new.components[each])))]
    downloads = sum(each.artifact_bytes for each in fetched)
    anything = bool(changed or removed or reconfigured or rollout)
    state = "added" if old is nothing else "removed" if new is nothing else "changed" if anything else "unchanged"
    return TargetPlan(
        name=name,
        state=state,
        added=added,
        removed=removed,
        upgraded=upgraded,
        reconfigured=reconfigured,
        restarted=_restarted(after, new, {*changed, *reconfigured} - set(added)),
        rollout=rollout,
        bytes_per_device=downloads,
        disk_per_device=sum(each.disk_bytes for each in fetched),
        places=len(new.on_device | old.on_device) if new.on_device else 0,
        devices=count,
        fleet_bytes=None if count is None else downloads * count,
        rollout_minutes=_minutes(new, count) if anything and new is not nothing else None,
    )


def _restarted(assembly: Assembly, target: Target, changed: set[str]) -> tuple[str, ...]:
    """The changed components and all that depend HARD on them."""
    found = set(changed)
    while True:
        more = {
            name
            for name, version in target.components.items()
            if (each := assembly.components.get((name, version))) and found & set(each.depends_hard)
        } - found
        if not more:
            return tuple(sorted(found))
        found |= more


def _minutes(target: Target, devices: int | None) -> int | None:
    rollout = (target.rollout.get("IotJobConfiguration") or {}).get("JobExecutionsRolloutConfig") or {}
    rate = str(rollout.get("MaximumPerMinute"))
    # Only a deploy knows that of a parameter.
    return math.ceil(devices / int(rate)) if devices and rate.isdecimal() and int(rate) else None


def _differences(old: object, new: object, path: str = "") -> list[str]:
    """Leaves that differ, as `path: before → after`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = list(dict.fromkeys([*old, *new]))
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{path}/{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for place, (one, two) in pairs for line in _differences(one, two, f"{path}/{place}")]
    return [] if old == new else [f"{path.removeprefix('/')}: {old} → {new}"]
