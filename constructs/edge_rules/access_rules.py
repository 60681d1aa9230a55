"""Rules on what components may do over Greengrass IPC, and what services may with a key."""

import ast
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import PLACE, Recipe, recipes
from edge_rules.rule import Finding, rule

_MESSAGING = {"aws.greengrass.ipc.mqttproxy", "aws.greengrass.ipc.pubsub"}
_TOPIC_KEY = re.compile(r"topic", re.IGNORECASE)
_TOPIC_ARGUMENTS = {"topic", "topic_name"}
_SOURCE_BYTES = 500_000


@rule(
    "IpcOperationWildcard",
    "access control must name every operation",
    reason="a * lets a component do whatever a later nucleus adds",
    fix="list the operations that the component calls",
)
def operations_are_named(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, _, policy in recipe.access():
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
    for recipe in recipes(fleet):
        for place, service, policy in recipe.access():
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
        for _, artifact in recipe.artifacts():
            file = fleet.asset(str(artifact.get("Uri", "")))
            for member, topic in topics_in_code(file) if file and file.suffix == ".zip" else ():
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
                if b"topic" in source:
                    found += [(member.filename, topic) for topic in _written_out(source)]
    return tuple(found)


def _written_out(source: bytes) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for argument in node.keywords:
                topic = argument.value.value if isinstance(argument.value, ast.Constant) else None
                if argument.arg in _TOPIC_ARGUMENTS and isinstance(topic, str):
                    yield topic
