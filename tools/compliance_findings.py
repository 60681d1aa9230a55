"""Findings of all checks in one form, and the exceptions that accept some."""

import ast
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tools.cdk_cli import ROOT

EXCEPTIONS = ROOT / "config" / "tables" / "compliance.toml"
_SOURCES = ("constructs/edge_constructs", "stacks", "app.py")
#: A text shorter than this does not tell which line of code it comes from.
_TELLING = 12


@dataclass(frozen=True)
class Finding:
    """What one check says of one resource.

    Attributes:
        stage: The stage whose templates it is in.
        tool: Pack or analyser.
        rule: Its id.
        resource: Construct path, or `Stack/LogicalId`.
        message: What is wrong.
        reason: Why it is accepted; empty while it is open.
        where: File and line of the acceptance, as far as known.
    """

    stage: str
    tool: str
    rule: str
    resource: str
    message: str
    reason: str = ""
    where: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody accepted it."""
        return not self.reason


@dataclass(frozen=True)
class ReviewedException:
    """An entry of the reviewed file.

    Attributes:
        tool: Analyser.
        rule: Its rule.
        resources: Shell patterns over `Stack/LogicalId`.
        reason: Why.
        where: File and line.
    """

    tool: str
    rule: str
    resources: tuple[str, ...]
    reason: str
    where: str

    def covers(self, finding: Finding) -> bool:
        """Tell whether it accepts a finding."""
        return (self.tool, self.rule) == (finding.tool, finding.rule) and any(
            fnmatchcase(finding.resource, pattern) for pattern in self.resources
        )


def read_exceptions(path: Path = EXCEPTIONS) -> list[ReviewedException]:
    """Read the reviewed file.

    Raises:
        ValueError: An entry lacks a field or a reason that explains something, or is about every resource.
    """
    text = path.read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() == "[[exception]]"]
    found = []
    for number, entry in zip(lines, tomllib.loads(text).get("exception", []), strict=True):
        where = f"config/{path.parent.name}/{path.name}:{number}"
        if missing := {"tool", "rule", "resources", "reason"} - set(entry):
            raise ValueError(f"{where}: an exception must have {', '.join(sorted(missing))}")
        if len(entry["reason"]) <= 30:
            raise ValueError(f"{where}: reason must explain the risk that is taken, got {entry['reason']!r}")
        if wide := [pattern for pattern in entry["resources"] if not pattern.strip("*?/")]:
            raise ValueError(f"{where}: resources must say which resources, got {wide[0]!r}, which is all of them")
        found.append(ReviewedException(entry["tool"], entry["rule"], tuple(entry["resources"]), entry["reason"], where))
    return found


def accept(findings: Iterable[Finding], exceptions: Iterable[ReviewedException]) -> Iterator[Finding]:
    """Give each finding the reason of the exception that covers it; an exception that covers none is a finding."""
    unused = {each.where: each for each in exceptions}
    known = list(unused.values())
    for finding in findings:
        match = next((each for each in known if each.covers(finding)), None)
        if match:
            unused.pop(match.where, None)
            yield replace(finding, reason=match.reason, where=match.where)
        else:
            yield finding
    for each in unused.values():
        yield Finding("all", each.tool, each.rule, each.where, "an exception that covers nothing: remove it")


def of_report(stage: str, report: Mapping[str, Any]) -> Iterator[Finding]:
    """Read the validation report of a synth: open findings, and acknowledged ones with reason and code line."""
    for plugin in report["pluginReports"]:
        pack = plugin["pluginName"]
        for violation in plugin["violations"]:
            # CDK's own validator also suggests: what CloudFormation would refuse is an error.
            if pack.startswith("CloudFormation") and violation.get("severity") not in {"error", "fatal"}:
                continue
            for place in violation["violatingConstructs"]:
                yield Finding(stage, pack, violation["ruleName"], _path(place), violation["description"])
        for violation in plugin.get("suppressedViolations", []):
            for place in violation["violatingConstructs"]:
                yield Finding(
                    stage,
                    pack,
                    violation["acknowledgedId"].split("::", 1)[1],
                    _path(place),
                    violation["description"],
                    violation["reason"],
                    code_line(violation["reason"]),
                )


def _path(place: Mapping[str, Any]) -> str:
    return str(place.get("constructPath") or place.get("resourceLogicalId") or "unknown")


def code_line(reason: str) -> str:
    """Find the line of code that states a reason: it is written out once, in the construct that takes the risk."""
    matches = [(len(text), where) for text, where in _texts() if text in reason]
    return max(matches)[1] if matches else ""


@cache
def _texts() -> tuple[tuple[str, str], ...]:
    """Every longer text of the constructs and stacks, with its place."""
    found = []
    for source in _SOURCES:
        start = ROOT / source
        for file in sorted(start.rglob("*.py")) if start.is_dir() else [start]:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) >= _TELLING:
                    found.append((node.value, f"{file.relative_to(ROOT)}:{node.lineno}"))
    return tuple(found)
