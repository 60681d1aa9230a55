"""`deviceGroups` of the client device auth component: which device is in which group, and what its policies allow.

Written from the component's documentation for its format version 2021-03-05, up to 2.5.x: wildcards in resources since
2.4, the thing's name as a variable since 2.4.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

FORMAT = "2021-03-05"
OPERATIONS = ("mqtt:connect", "mqtt:publish", "mqtt:subscribe")
THING_NAME = "${iot:Connection.Thing.ThingName}"

_RESOURCE = re.compile(r"\*|mqtt:(clientId|topic|topicfilter):.+", re.S)
_CLAUSE = re.compile(r"\s*thingName:\s*((?:\\.|[^\s\\])+)(?:\s+(AND|OR)(?=\s)|\s*$)")
_NAME = re.compile(r"\*?(?:\\:|[A-Za-z0-9_-])*\*?")


class PermissionsError(Exception):
    """`deviceGroups` has mistakes; the text lists all of them."""


@dataclass(frozen=True)
class _Statement:
    operations: frozenset[str]
    resources: tuple[str, ...]


@dataclass(frozen=True)
class _Group:
    name: str
    rule: tuple[tuple[str, ...], ...]
    """Any of these, of each all: patterns of thing names."""
    statements: tuple[_Statement, ...]


@dataclass(frozen=True)
class Permissions:
    """What client devices may do; without any group, nothing."""

    groups: tuple[_Group, ...] = ()

    def groups_of(self, thing: str) -> list[str]:
        """Names of the groups that a thing is in."""
        return [group.name for group in self.groups if _selects(group.rule, thing)]

    def allows(self, thing: str, operation: str, resource: str) -> bool:
        """Whether a group of a thing allows an operation on a resource.

        Args:
            thing: The client device's.
            operation: One of `OPERATIONS`.
            resource: `mqtt:clientId:…`, `mqtt:topic:…` or `mqtt:topicfilter:…`; a filter's wildcards are plain text.
        """
        return any(
            operation in statement.operations and any(_covers(text, thing, resource) for text in statement.resources)
            for group in self.groups
            if _selects(group.rule, thing)
            for statement in group.statements
        )


def parse_permissions(device_groups: Any) -> Permissions:
    """Read `deviceGroups`.

    Args:
        device_groups: The value of the component's configuration; nothing for none.

    Raises:
        PermissionsError: It has mistakes: each with its place, the rule and what is there.
    """
    reader = _Reader()
    content = reader.table("deviceGroups", device_groups)
    if content and (version := content.get("formatVersion")) != FORMAT:
        reader.note("deviceGroups.formatVersion", f"must be {FORMAT}", version)
    policies = {
        name: tuple(reader.statements(f"deviceGroups.policies.{name}", policy))
        for name, policy in reader.table("deviceGroups.policies", content.get("policies")).items()
    }
    groups = []
    for name, entry in reader.table("deviceGroups.definitions", content.get("definitions")).items():
        where = f"deviceGroups.definitions.{name}"
        definition = reader.table(where, entry)
        policy = definition.get("policyName")
        if policy not in policies:
            known = ", ".join(policies) or "none"
            reader.note(f"{where}.policyName", f"must be one of deviceGroups.policies ({known})", policy)
            continue
        rule = reader.rule(f"{where}.selectionRule", definition.get("selectionRule"))
        groups.append(_Group(str(name), rule, policies[policy]))
    if reader.mistakes:
        raise PermissionsError("\n".join(reader.mistakes))
    return Permissions(tuple(groups))


@dataclass
class _Reader:
    mistakes: list[str] = field(default_factory=list)

    def note(self, where: str, rule: str, value: Any) -> None:
        self.mistakes.append(f"{where} {rule}, got {'nothing' if value is None else repr(value)[:200]}")

    def table(self, where: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self.note(where, "must be an object", value)
        return {}

    def statements(self, where: str, policy: Any) -> Iterator[_Statement]:
        for name, entry in self.table(where, policy).items():
            statement = self.table(f"{where}.{name}", entry)
            operations = self.texts(f"{where}.{name}.operations", statement.get("operations"))
            resources = self.texts(f"{where}.{name}.resources", statement.get("resources"))
            found: set[str] = set()
            for operation in operations:
                if operation in ("*", "mqtt:*"):
                    found.update(OPERATIONS)
                elif operation in OPERATIONS:
                    found.add(operation)
                else:
                    self.note(f"{where}.{name}.operations", f"must be of {', '.join((*OPERATIONS, '*'))}", operation)
            for resource in resources:
                if not _RESOURCE.fullmatch(resource):
                    rule = "must be *, mqtt:clientId:…, mqtt:topic:… or mqtt:topicfilter:…"
                    self.note(f"{where}.{name}.resources", rule, resource)
            yield _Statement(frozenset(found), tuple(resources))

    def texts(self, where: str, value: Any) -> list[str]:
        # One text stands for a list of it, as the component's examples have it.
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and values and all(isinstance(each, str) for each in values):
            return values
        self.note(where, "must be a list of texts", value)
        return []

    def rule(self, where: str, value: Any) -> tuple[tuple[str, ...], ...]:
        """`thingName: a* OR thingName: b AND thingName: c`; AND binds closer, as in fleet indexing's queries."""
        shape = "must be thingName: NAME, joined by OR and AND, with * at a name's beginning or end"
        if not isinstance(value, str):
            self.note(where, shape, value)
            return ()
        any_of: list[list[str]] = [[]]
        at = 0
        while True:
            clause = _CLAUSE.match(value, at)
            if clause is None or not _NAME.fullmatch(clause[1]):
                self.note(where, shape, value)
                return ()
            any_of[-1].append(clause[1].replace("\\:", ":"))
            at = clause.end()
            if clause[2] is None:
                return tuple(map(tuple, any_of))
            if clause[2] == "OR":
                any_of.append([])


def _selects(rule: tuple[tuple[str, ...], ...], thing: str) -> bool:
    return any(all(_pattern(name).fullmatch(thing) for name in all_of) for all_of in rule)


def _covers(text: str, thing: str, resource: str) -> bool:
    return text == "*" or _pattern(text.replace(THING_NAME, thing)).fullmatch(resource) is not None


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    first, *rest = map(re.escape, text.split("*"))
    # Atomic: what is between two wildcards is looked for once, so that no topic of a client takes long to refuse.
    between = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(first + between + "".join(f".*{part}" for part in rest[-1:]), re.S)
