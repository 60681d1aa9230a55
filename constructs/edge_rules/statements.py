"""Statements of IAM and IoT policies in templates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_rules.fleet_view import FleetView, Resource


@dataclass(frozen=True)
class Statement:
    """One statement that allows something.

    Attributes:
        resource: Where it stands.
        location: Path below the resource.
        actions: What it allows.
        resources: On what, as text.
    """

    resource: Resource
    location: str
    actions: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)


def allowed(resource: Resource, document: Any, location: str) -> Iterator[Statement]:
    """The statements of a policy document that allow something."""
    statements = document.get("Statement") or [] if isinstance(document, Mapping) else []
    for place, each in enumerate(statements if isinstance(statements, list) else [statements]):
        if each.get("Effect") == "Allow":
            yield Statement(
                resource,
                f"{location}/Statement/{place}",
                resource.texts(each.get("Action")),
                resource.texts(each.get("Resource")),
            )


def of_resource(resource: Resource) -> Iterator[Statement]:
    """The statements that a role or policy resource itself holds."""
    if "PolicyDocument" in resource.properties:
        yield from allowed(resource, resource.properties["PolicyDocument"], "Properties/PolicyDocument")
    for place, policy in enumerate(resource.properties.get("Policies") or []):
        if isinstance(policy, Mapping):
            yield from allowed(resource, policy.get("PolicyDocument"), f"Properties/Policies/{place}")


def iam(fleet: FleetView) -> Iterator[Statement]:
    """The statements of every role and IAM policy."""
    for resource in fleet.of_type("AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        yield from of_resource(resource)


def of_role(role: Resource) -> Iterator[Statement]:
    """All that a role is allowed, by itself and by policies that name it."""
    yield from of_resource(role)
    for policy in role.fleet.of_type("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        names = policy.text(policy.properties.get("Roles") or [])
        if role in policy.fleet.referenced(names):
            yield from of_resource(policy)


def assumed_by(role: Resource) -> str:
    """Who may assume a role, as text."""
    return role.text(role.properties.get("AssumeRolePolicyDocument") or {})
