"""Findings of all checks in one form, and the exceptions that accept some."""

import ast
import json
import os
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from config.places import PROJECT as ROOT
from edge_rules.fleet_view import FleetView, Resource

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


BIN = ROOT / ".venv-compliance" / "bin"
LIMIT_S = 300
#: What CloudFormation fills in, as an analyser of policies expects it.
_FILLED = {"<AWS::Partition>": "aws", "<AWS::AccountId>": "123456789012", "<AWS::URLSuffix>": "amazonaws.com"}


class AnalyserError(Exception):
    """An analyser is missing or did not finish; the text says what to do."""


@dataclass(frozen=True)
class Assembly:
    """The templates of one stage.

    Attributes:
        stage: Name of the stage.
        region: Where it is deployed: cfn-lint knows which types a region has.
        folder: Its `cdk.out`, whose path no other stage has.
    """

    stage: str
    region: str
    folder: Path

    @property
    def templates(self) -> list[Path]:
        """Its templates, sorted."""
        return sorted(self.folder.glob("*.template.json"))


def analyse(assemblies: Sequence[Assembly], work: Path) -> Iterator[Finding]:
    """Run all analysers, two at a time; each is started as seldom as possible, because checkov's start takes seconds.

    Args:
        assemblies: What to look at.
        work: Folder for what the analysers read.

    Raises:
        AnalyserError: One is missing, failed or took too long.
    """
    places = {template.resolve(): each for each in assemblies for template in each.templates}
    regions = sorted({each.region for each in assemblies})
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = [
            pool.submit(_checkov, places, work),
            *(
                pool.submit(lint, region, {path: each for path, each in places.items() if each.region == region})
                for region in regions
            ),
            *(pool.submit(_parliament, each, work / each.stage / "policies") for each in assemblies),
        ]
        for run in runs:
            yield from run.result()


def lint(region: str, places: Mapping[Path, Assembly]) -> list[Finding]:
    """Run cfn-lint.

    Args:
        region: Whose types and properties count.
        places: Resolved path of each template to its assembly.

    Raises:
        AnalyserError: It is missing, failed or took too long.
    """
    output = _run("cfn-lint", "-r", region, "--format", "json", "--", *map(str, places))
    findings = []
    for found in json.loads(output or "[]"):
        if found["Level"] in {"Error", "Warning"}:
            path = [str(part) for part in found["Location"]["Path"] or []]
            place = path[1] if path[:1] == ["Resources"] and len(path) > 1 else "/".join(path[:2])
            file = Path(found["Filename"])
            findings.append(_finding("cfn-lint", found["Rule"]["Id"], places, file, place, found["Message"][:300]))
    return findings


def _checkov(places: Mapping[Path, Assembly], work: Path) -> list[Finding]:
    # checkov searches the file's name for secrets, too: 40 characters of an absolute path can look like an AWS key.
    files = [argument for template in places for argument in ("-f", os.path.relpath(template, work.resolve()))]
    output = _run(
        "checkov",
        "--framework",
        "cloudformation",
        "--compact",
        "--quiet",
        "--skip-download",
        "-o",
        "json",
        *files,
        cwd=work,
    )
    reports = json.loads(output or "[]")
    return [
        _finding(
            "checkov",
            found["check_id"],
            places,
            work / found["file_abs_path"],
            found["resource"].split(".")[-1],
            found["check_name"],
        )
        for report in (reports if isinstance(reports, list) else [reports])
        for found in report.get("results", {}).get("failed_checks", [])
    ]


def _finding(
    tool: str, rule: str, places: Mapping[Path, Assembly], file: Path, logical_id: str, message: str
) -> Finding:
    stack = file.name.removesuffix(".template.json")
    return Finding(places[file.resolve()].stage, tool, rule, f"{stack}/{logical_id}", message)


def _parliament(assembly: Assembly, folder: Path) -> list[Finding]:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    places = {}
    for number, (place, document) in enumerate(policies(FleetView.read(assembly.templates), assembly.region)):
        name = f"{number:04}.json"
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
        places[name] = place
    output = _run("parliament", "--directory", str(folder), "--json", "--minimum_severity", "MEDIUM")
    findings = []
    for line in output.splitlines():
        found = json.loads(line)
        file = Path(str((found.get("location") or {}).get("filepath", ""))).name
        message = f"{found.get('title', '')} {found.get('detail') or ''}".strip()
        findings.append(Finding(assembly.stage, "parliament", str(found["issue"]), places.get(file, file), message))
    return findings


def policies(view: FleetView, region: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every IAM policy document of the templates, complete as after a deploy, with `Stack/LogicalId`."""
    for resource in view.of_type("AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        documents = [policy.get("PolicyDocument") for policy in resource.properties.get("Policies") or []]
        for document in [*documents, resource.properties.get("PolicyDocument")]:
            if isinstance(document, Mapping):
                yield f"{resource.stack}/{resource.logical_id}", _complete(resource, document, region)


def _complete(resource: Resource, value: Any, region: str) -> Any:
    if isinstance(value, list):
        return [_complete(resource, each, region) for each in value]
    if isinstance(value, Mapping) and not any(key == "Ref" or key.startswith("Fn::") for key in value):
        return {key: _complete(resource, each, region) for key, each in value.items()}
    text = resource.text(value)
    for token, filled in {**_FILLED, "<AWS::Region>": region}.items():
        text = text.replace(token, filled)
    # A reference that only a deploy resolves is some ARN of the service that owns the type.
    return _reference(resource, text) if text.startswith("<") else text


def _reference(resource: Resource, text: str) -> str:
    owner = next(resource.fleet.referenced(text), None)
    service = owner.type.split("::")[1].lower() if owner else ""
    shapes = {
        "lambda": "arn:aws:lambda:us-east-1:123456789012:function:name",
        "kms": "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000",
        "logs": "arn:aws:logs:us-east-1:123456789012:log-group:name:*",
        "stepfunctions": "arn:aws:states:us-east-1:123456789012:stateMachine:name",
        "iam": "arn:aws:iam::123456789012:role/name",
        "sns": "arn:aws:sns:us-east-1:123456789012:name",
        "sqs": "arn:aws:sqs:us-east-1:123456789012:name",
    }
    return shapes.get(service, "*")


def _run(tool: str, *arguments: str, cwd: Path = ROOT) -> str:
    """Run an analyser; its exit code only says that it found something."""
    program = BIN / tool
    if not program.exists():
        raise AnalyserError(f"{tool} must be installed in {BIN.parent.name}: run make setup-compliance")
    try:
        done = subprocess.run(
            [str(program), *arguments], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AnalyserError(f"{tool} must finish within {LIMIT_S} s: run it by hand to see why") from exc
    if done.stdout.strip() or done.returncode == 0:
        return done.stdout
    raise AnalyserError(f"{tool} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
