"""What rules are, and what they look at: templates and assets of an assembly; texts, statements, start scripts."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nucleus_lite import Fact

#: Says what an export of another stack stands for, or an output that is not exported, `output NAME`.
Exports = Callable[[str], str]


_OUTPUT = "output "


def as_text(value: Any, stack: str, exports: Exports) -> str:
    """Write a value of a template as one line of text.

    Args:
        value: Any JSON value; intrinsic functions become `<Stack/LogicalId.Attribute>` or what they join.
        stack: The template's stack, which makes logical ids unique among stacks.
        exports: Name of an export to its text.

    Returns:
        The text; of lists and objects that are no intrinsic function, their items one after another.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(as_text(item, stack, exports) for item in value)
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    if len(value) == 1:
        name, argument = next(iter(value.items()))
        if name == "Ref" or name.startswith("Fn::"):
            return _intrinsic(name, argument, stack, exports)
    return " ".join(as_text(item, stack, exports) for item in value.values())


def _intrinsic(name: str, argument: Any, stack: str, exports: Exports) -> str:
    if name == "Ref":
        return f"<{argument}>" if argument.startswith("AWS::") else f"<{stack}/{argument}>"
    if name == "Fn::GetAtt":
        parts = argument.split(".", 1) if isinstance(argument, str) else argument
        return f"<{stack}/{parts[0]}.{as_text(parts[1], stack, exports)}>"
    if name == "Fn::Join":
        separator, items = argument
        if isinstance(items, list):
            return str(separator).join(as_text(item, stack, exports) for item in items)
        return as_text(items, stack, exports)
    if name == "Fn::Sub":
        return _substituted(argument, stack, exports)
    if name == "Fn::ImportValue":
        return exports(as_text(argument, stack, exports))
    if name == "Fn::GetStackOutput":
        return exports(f"{_OUTPUT}{as_text(argument.get('OutputName', ''), stack, exports)}")
    if name == "Fn::Base64":
        return as_text(argument, stack, exports)
    if name == "Fn::If":
        # Either branch may come true: both are looked at.
        return " ".join(as_text(branch, stack, exports) for branch in argument[1:])
    return f"<{name} {as_text(argument, stack, exports)}>"


def _substituted(argument: Any, stack: str, exports: Exports) -> str:
    text, values = (argument, {}) if isinstance(argument, str) else argument
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", as_text(value, stack, exports))
    before, *rest = text.split("${")
    parts = [before]
    for piece in rest:
        inside, closed, after = piece.partition("}")
        if not closed or inside.startswith("!"):
            parts.append("${" + inside.removeprefix("!") + closed + after)
            continue
        local = inside if inside.startswith("AWS::") else f"{stack}/{inside}"
        parts.append(f"<{local}>{after}")
    return "".join(parts)


_REFERENCE = re.compile(r"<([^<>/ ]+)/([^<>. ]+)(?:\.[^<>]*)?>")
_DIGEST = re.compile(r"\b[0-9a-f]{32,64}\b")


@dataclass(frozen=True)
class Resource:
    """One resource of a template.

    Attributes:
        fleet: The view that it belongs to.
        stack: Its template, as `FleetView.templates` names it.
        logical_id: Its key there.
        body: All that the template says of it.
    """

    fleet: "FleetView" = field(repr=False, compare=False)
    stack: str
    logical_id: str
    body: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def type(self) -> str:
        """CloudFormation's name of what it is."""
        return str(self.body.get("Type", ""))

    @property
    def properties(self) -> Mapping[str, Any]:
        """Its properties; empty if it has none."""
        return self.body.get("Properties") or {}

    def text(self, value: Any) -> str:
        """Write a value of this resource's template as text."""
        return as_text(value, self.stack, self.fleet.export)

    def texts(self, value: Any) -> list[str]:
        """Write a value that may be one or a list as texts."""
        return [self.text(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


@dataclass(frozen=True)
class FleetView:
    """Templates and assets, read once and shared by all rules.

    Attributes:
        templates: Stack to its parsed template.
        assets: Digest to the file or folder that is published under it.
    """

    templates: Mapping[str, Mapping[str, Any]]
    assets: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "FleetView":
        """Read templates and the asset manifests beside them.

        Args:
            paths: `<Stack>.template.json` files of one assembly.
        """
        templates, assets = {}, {}
        for path in paths:
            name = path.name.removesuffix(".template.json")
            templates[name] = json.loads(path.read_text(encoding="utf-8"))
            manifest = path.with_name(f"{name}.assets.json")
            if manifest.is_file():
                files = json.loads(manifest.read_text(encoding="utf-8")).get("files", {})
                for digest, entry in files.items():
                    if "path" in entry.get("source", {}):
                        assets[digest] = path.parent / entry["source"]["path"]
        return cls(templates, assets)

    @cached_property
    def resources(self) -> list[Resource]:
        """Every resource of every template."""
        return [
            Resource(self, stack, logical_id, body)
            for stack, template in self.templates.items()
            for logical_id, body in (template.get("Resources") or {}).items()
        ]

    def of_type(self, *types: str) -> Iterator[Resource]:
        """The resources of some types."""
        return (resource for resource in self.resources if resource.type in types)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], Resource]:
        return {(resource.stack, resource.logical_id): resource for resource in self.resources}

    @cached_property
    def _exports(self) -> dict[str, tuple[str, Any]]:
        return {
            as_text(output["Export"]["Name"], stack, str): (stack, output.get("Value"))
            for stack, template in self.templates.items()
            for output in (template.get("Outputs") or {}).values()
            if "Export" in output
        }

    @cached_property
    def _outputs(self) -> dict[str, tuple[str, Any]]:
        return {
            _OUTPUT + name: (stack, output.get("Value"))
            for stack, template in self.templates.items()
            for name, output in (template.get("Outputs") or {}).items()
        }

    def export(self, name: str) -> str:
        """Say what an export of one of the stacks stands for, `<import NAME>` if none has it."""
        # Outputs are looked for by their own name: CDK makes it of the resource's path and a digest.
        known = self._outputs if name.startswith(_OUTPUT) else self._exports
        if name not in known:
            return f"<import {name}>"
        stack, value = known[name]
        return as_text(value, stack, self.export)

    def referenced(self, text: str) -> Iterator[Resource]:
        """The resources that a text speaks of."""
        for stack, logical_id in _REFERENCE.findall(text):
            if (stack, logical_id) in self._by_place:
                yield self._by_place[stack, logical_id]

    def asset(self, text: str) -> Path | None:
        """Find the asset that a location comes from: by a digest in it, or in the resource that it refers to."""
        digests = _DIGEST.findall(text)
        for resource in self.referenced(text):
            digests += _DIGEST.findall(resource.text(resource.properties))
        found = (self.assets[digest] for digest in digests if digest in self.assets)
        return next(found, None)


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


def launch_properties(resource: Resource) -> Mapping[str, Any]:
    """What a machine is launched with: its own properties win over its launch template's."""
    own = resource.properties.get("LaunchTemplateData") or resource.properties
    templates = resource.fleet.referenced(resource.text(own.get("LaunchTemplate", "")))
    data = [each.properties.get("LaunchTemplateData") or {} for each in templates]
    return {**(data[0] if data else {}), **own}


def start_scripts(fleet: FleetView) -> Iterator[tuple[Resource, str, str]]:
    """Resource, location and text of the user data of instances and launch templates."""
    for resource in fleet.of_type("AWS::EC2::Instance", "AWS::AutoScaling::LaunchConfiguration"):
        if "UserData" in resource.properties:
            yield resource, "Properties/UserData", resource.text(resource.properties["UserData"])
    for resource in fleet.of_type("AWS::EC2::LaunchTemplate"):
        data = resource.properties.get("LaunchTemplateData") or {}
        if "UserData" in data:
            yield resource, "Properties/LaunchTemplateData/UserData", resource.text(data["UserData"])


#: Every rule's id starts with it, as those of the packs of cdk-nag do.
PREFIX = "Edge-"


@dataclass(frozen=True)
class Finding:
    """One break of a rule.

    Attributes:
        resource: Where.
        location: Path below the resource, such as `Properties/InlineRecipe`.
        value: What is there; shown to the user.
    """

    resource: Resource
    location: str
    value: str


Check = Callable[[FleetView], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """Something that must hold before a change may reach devices.

    Attributes:
        id: `Edge-` and a name; stable, since acknowledgements refer to it.
        says: The rule in one sentence.
        reason: What happens on a device or in the cloud otherwise.
        fix: What to do.
        source: Where it is to be read or was seen, for a rule that comes from a nucleus.
        check: Finds the breaks of it.
    """

    id: str
    says: str
    reason: str
    fix: str
    source: str
    check: Check


RULES: dict[str, Rule] = {}


def rule(
    name: str, says: str, *, reason: str, fix: str, source: str = "", fact: Fact | None = None
) -> Callable[[Check], Check]:
    """Register a function as the check of a rule.

    Args:
        name: The id without its prefix.
        says: See `Rule`.
        reason: See `Rule`.
        fix: See `Rule`.
        source: See `Rule`; that of the fact, or nothing, by default.
        fact: What of nucleus lite the rule is about.

    Raises:
        ValueError: Another rule has the name.
    """

    def register(check: Check) -> Check:
        if PREFIX + name in RULES:
            raise ValueError(f"a rule's name must be its own, got {name} twice")
        RULES[PREFIX + name] = Rule(PREFIX + name, says, reason, fix, source or (fact.source if fact else ""), check)
        return check

    return register
