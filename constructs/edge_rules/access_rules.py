"""Rules on rights: of components over Greengrass IPC, of devices in the cloud and who made them, of users of a key."""

import ast
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_rules.fleet_view import Finding, FleetView, Resource, assumed_by, of_resource, of_role, rule, start_scripts
from edge_rules.recipe_view import PLACE, Recipe, parts_of, recipes

_MESSAGING = {"aws.greengrass.ipc.mqttproxy", "aws.greengrass.ipc.pubsub"}
_TOPIC_KEY = re.compile(r"topic", re.IGNORECASE)
_TOPIC_ARGUMENTS = {"topic", "topic_name"}
_SOURCE_BYTES = 500_000
#: Where a call may name a topic by a plain text: the argument, `=`, and what a text may begin with, also a comment or a
#: bracket before it.
_MAY_NAME_A_TOPIC = re.compile(rb"""\btopic(_name)?\s*([#\\]|=\s*([rRuU]?["']|[(#\\]))""")


@rule(
    "IpcOperationWildcard",
    "access control must name every operation",
    reason="a * lets a component do whatever a later nucleus adds",
    fix="list the operations that the component calls",
)
def operations_are_named(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, _, policy) in parts_of(fleet, Recipe.access):
        for operation in policy.get("operations") or []:
            if "*" in operation:
                yield Finding(recipe.resource, place, operation)


@rule(
    "IpcTopicWildcard",
    "access control must name every topic",
    reason="with a wildcard a component reads or answers what is meant for others",
    fix="list the topics, and address devices by a field of the message",
)
def topics_are_named(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, service, policy) in parts_of(fleet, Recipe.access):
        for topic in policy.get("resources") or []:
            if service in _MESSAGING and re.search(r"[*+#]", topic):
                yield Finding(recipe.resource, place, topic)


@rule(
    "TopicAccess",
    "every topic in the configuration must be in the access control",
    reason="the subscription is refused on the device, and the component waits for ever",
    fix="add the topic to the resources of accessControl",
)
def configured_topics_are_allowed(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        allowed = _allowed(recipe)
        own = {key: value for key, value in recipe.configuration.items() if key != "accessControl"}
        for path, topic in _topics(own, "DefaultConfiguration"):
            for each in _of_models(topic, own.get("models")):
                if each not in allowed:
                    yield Finding(recipe.resource, f"{PLACE}/{path}", each)


@rule(
    "CodeTopicAccess",
    "every topic that the component's code names must be in the access control",
    reason="the call is refused on the device only",
    fix="take the topic from the configuration, or add it to the resources of accessControl",
)
def topics_of_the_code_are_allowed(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        allowed = _allowed(recipe)
        for _, archive in recipe.archives():
            for member, topic in topics_in_code(archive):
                if topic not in allowed:
                    yield Finding(recipe.resource, f"{PLACE}/Artifacts/{member}", topic)


def _of_models(topic: str, models: Any) -> list[str]:
    """A topic with `{model}` in it, for each model of the configuration."""
    if "{model}" not in topic or not isinstance(models, Mapping):
        return [topic]
    return [topic.replace("{model}", str(name)) for name in models]


def _allowed(recipe: Recipe) -> set[str]:
    return {
        topic
        for _, service, policy in recipe.access()
        if service in _MESSAGING
        for topic in policy.get("resources") or []
    }


def _topics(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Texts below keys that speak of topics."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            if _TOPIC_KEY.search(str(key)):
                values = child if isinstance(child, list) else [child]
                yield from ((f"{path}/{key}", value) for value in values if isinstance(value, str) and value)
            else:
                yield from _topics(child, f"{path}/{key}")
    elif isinstance(node, list):
        for place, child in enumerate(node):
            yield from _topics(child, f"{path}/{place}")


@rule(
    "TopicKeySource",
    "a key's policy must not ask EventBridge for whom it encrypts a topic's messages",
    reason="aws:SourceAccount and aws:SourceArn are not supported from EventBridge to encrypted topics: nobody is told",
    fix="limit it by kms:EncryptionContext:aws:sns:topicArn",
    source="SNS developer guide, key management",
)
def eventbridge_can_use_the_key(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.of_type("AWS::KMS::Key"):
        for place, statement in enumerate((resource.properties.get("KeyPolicy") or {}).get("Statement") or []):
            services = resource.text((statement.get("Principal") or {}).get("Service", ""))
            keys = {key for each in (statement.get("Condition") or {}).values() for key in each}
            asked = sorted(key for key in keys if key.lower() in {"aws:sourceaccount", "aws:sourcearn"})
            if statement.get("Effect") == "Allow" and "events.amazonaws.com" in services and asked:
                yield Finding(resource, f"Properties/KeyPolicy/Statement/{place}", ", ".join(asked))


@lru_cache(maxsize=64)
def topics_in_code(archive: Path) -> tuple[tuple[str, str], ...]:
    """Find topics that are written out in calls of the Python files of an archive.

    Args:
        archive: A zip.

    Returns:
        Member and topic of each argument `topic` or `topic_name` that is a plain text.
    """
    found = []
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            if member.filename.endswith(".py") and member.file_size <= _SOURCE_BYTES:
                source = members.read(member)
                # Parsing is the slow part: most files have no such argument.
                if _MAY_NAME_A_TOPIC.search(source):
                    found += [(member.filename, topic) for topic in _written_out(source)]
    return tuple(found)


def _written_out(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of what is nested too deeply
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for argument in node.keywords:
                topic = argument.value.value if isinstance(argument.value, ast.Constant) else None
                if argument.arg in _TOPIC_ARGUMENTS and isinstance(topic, str):
                    yield topic


_CREDENTIALS = "credentials.iot.amazonaws.com"
#: Greengrass' data plane knows no narrower resource than `*` for a device.
_ANYWHERE = re.compile(r"greengrass:\w+")
#: A pattern such as that of a UUID is no thing's name.
_ANY_CLIENT = re.compile(r":client/\?*\*")
_EVERYTHING = re.compile(r"^\*$|:(topic|topicfilter|rolealias)/[*#]")
_WHOLE_BUCKET = re.compile(r"^arn:[^:]*:s3:::[^/]*(/\*)?$")


def _token_exchange_roles(fleet: FleetView) -> Iterator[Resource]:
    return (role for role in fleet.of_type("AWS::IAM::Role") if _CREDENTIALS in assumed_by(role))


@rule(
    "IotPolicyAction",
    "an IoT policy must name its actions",
    reason="iot:* lets one stolen certificate act as the whole fleet",
    fix="list Connect, Publish, Subscribe, Receive and what else the device calls",
)
def iot_policies_name_actions(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            for action in statement.actions:
                if action.endswith("*"):
                    yield Finding(policy, statement.location, action)


@rule(
    "IotPolicyResource",
    "an IoT policy must name its topics, filters and role aliases",
    reason="a device reads and writes the messages of all others",
    fix="use ${iot:Connection.Thing.ThingName} and exact topics",
)
def iot_policies_name_resources(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            wide = [each for each in statement.resources if _EVERYTHING.search(each)]
            if wide and not all(_ANYWHERE.fullmatch(action) for action in statement.actions):
                yield Finding(policy, statement.location, wide[0])


@rule(
    "IotClientId",
    "an IoT policy must tie the client id to the thing",
    reason="a device connects under another one's name and throws it off",
    fix="allow iot:Connect on client/${iot:Connection.Thing.ThingName}*",
)
def clients_are_things(fleet: FleetView) -> Iterator[Finding]:
    for policy in fleet.of_type("AWS::IoT::Policy"):
        for statement in of_resource(policy):
            if {"iot:Connect", "iot:*", "*"} & set(statement.actions):
                for each in statement.resources:
                    if each == "*" or _ANY_CLIENT.search(each):
                        yield Finding(policy, statement.location, each)


@rule(
    "TokenExchangeScope",
    "the token exchange role must only read below named prefixes",
    reason="every component on every device can read, or overwrite, all that is in the bucket",
    fix="allow s3:GetObject on arn:aws:s3:::<bucket>/<prefix>/*",
)
def token_exchange_is_narrow(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        for statement in of_role(role):
            for action in statement.actions:
                if action in {"*", "s3:*"} or re.match(r"s3:(Delete|PutBucket|PutObjectAcl)", action):
                    yield Finding(role, statement.location, action)
                elif re.match(r"s3:(Get|Put)Object", action):
                    for each in statement.resources:
                        if each == "*" or _WHOLE_BUCKET.match(each):
                            yield Finding(role, statement.location, f"{action} on {each}")


@rule(
    "TokenExchangeManaged",
    "the token exchange role must take no broad managed policy",
    reason="AmazonS3FullAccess on a device gives its finder the account's buckets",
    fix="replace it by an inline policy with exact actions",
)
def token_exchange_has_no_broad_policy(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        for policy in role.texts(role.properties.get("ManagedPolicyArns") or []):
            if re.search(r"FullAccess|AdministratorAccess|PowerUser|ReadOnlyAccess", policy):
                yield Finding(role, "Properties/ManagedPolicyArns", policy)


@rule(
    "TokenExchangeGroups",
    "the token exchange role must allow greengrass:ListThingGroupsForCoreDevice",
    reason="without it a device never notices that a component was removed from its group",
    fix="allow it on coreDevices:*",
)
def token_exchange_lists_groups(fleet: FleetView) -> Iterator[Finding]:
    for role in _token_exchange_roles(fleet):
        actions = {action for statement in of_role(role) for action in statement.actions}
        if not actions & {"greengrass:ListThingGroupsForCoreDevice", "greengrass:*", "greengrass:List*", "*"}:
            yield Finding(role, "Properties/Policies", "not allowed")


@rule(
    "InstallerProvision",
    "the Greengrass installer must not provision the device",
    reason="with --provision true it makes roles, policies and groups that no stack owns and no destroy finds",
    fix="provision in the user data with the stack's own policy, role alias and group",
)
def installer_does_not_provision(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if found := re.search(r"--provision[ =]+true", script):
            yield Finding(resource, place, found.group())


@rule(
    "InstallerRoleAlias",
    "the role alias must be made by a stack, not by the installer",
    reason="the installer's role and alias outlive every stack, and allow more than a device needs",
    fix="define AWS::IoT::RoleAlias and name it in the nucleus' configuration",
)
def installer_makes_no_alias(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, script in start_scripts(fleet):
        if found := re.search(r"--tes-role(-alias)?-name|-trn\b|-tra\b", script):
            yield Finding(resource, place, found.group())
