"""What a change does to resources of the cloud: rights that come and go, resources that are replaced."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import COMPONENT, DEPLOYMENT, KEPT_COMPONENT

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
