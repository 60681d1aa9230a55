"""Findings as Markdown for people, JUnit for pipelines and SARIF for code scanning."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from tools.compliance_findings import Finding

_SARIF = "https://json.schemastore.org/sarif-2.1.0.json"


def as_markdown(findings: Sequence[Finding]) -> str:
    """A table of open findings, one of accepted ones, and a count a pack."""
    opened = [each for each in findings if each.is_open]
    counts = Counter((each.tool, each.is_open) for each in findings)
    lines = ["# Compliance", "", "| check | open | accepted |", "|---|--:|--:|"]
    lines += [
        f"| {tool} | {counts[tool, True]} | {counts[tool, False]} |"
        for tool in sorted({each.tool for each in findings})
    ]
    if opened:
        lines += ["", "## Open", "", "| rule | stage | resource | message |", "|---|---|---|---|"]
        lines += [f"| {_cell(each.rule)} | {each.stage} | {each.resource} | {_cell(each.message)} |" for each in opened]
    lines += ["", "## Accepted", "", "| rule | resource | stages | accepted in | reason |", "|---|---|---|---|---|"]
    merged: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for each in findings:
        if not each.is_open:
            merged[each.rule, each.resource, each.where, each.reason].append(each.stage)
    lines += [
        f"| {_cell(rule)} | {resource} | {', '.join(dict.fromkeys(stages))} | {where or '?'} | {_cell(reason)} |"
        for (rule, resource, where, reason), stages in sorted(merged.items())
    ]
    return "\n".join(lines) + "\n"


def as_junit(findings: Sequence[Finding]) -> str:
    """One case for each rule on each resource: open ones fail, accepted ones are skipped with their reason."""
    root = Element("testsuites")
    by_tool: dict[str, list[Finding]] = defaultdict(list)
    for each in findings:
        by_tool[each.tool].append(each)
    for tool, members in by_tool.items():
        opened = sum(each.is_open for each in members)
        counts = {"tests": len(members), "failures": opened, "skipped": len(members) - opened}
        suite = SubElement(root, "testsuite", {"name": tool, **{key: str(count) for key, count in counts.items()}})
        for each in members:
            case = SubElement(suite, "testcase", classname=f"{each.stage}.{tool}", name=f"{each.rule} {each.resource}")
            if each.is_open:
                SubElement(case, "failure", message=each.message)
            else:
                SubElement(case, "skipped", message=f"{each.reason} ({each.where})")
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def as_sarif(findings: Sequence[Finding]) -> str:
    """SARIF 2.1.0, one run a tool; accepted findings are marked as suppressed in code."""
    runs = []
    for tool in dict.fromkeys(each.tool for each in findings):
        members = [each for each in findings if each.tool == tool]
        rules = sorted({each.rule for each in members})
        runs.append(
            {
                "tool": {"driver": {"name": tool, "rules": [{"id": rule} for rule in rules]}},
                "results": [_result(each, rules.index(each.rule)) for each in members],
            }
        )
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": runs}, indent=1) + "\n"


def _result(finding: Finding, rule: int) -> dict[str, object]:
    file, _, line = finding.where.rpartition(":")
    # Code scanning wants a file of the repository: without a better one, where all stacks are put together.
    location = {
        "artifactLocation": {"uri": file or "stacks/edgewright.py"},
        "region": {"startLine": int(line) if line.isdigit() else 1},
    }
    result: dict[str, object] = {
        "ruleId": finding.rule,
        "ruleIndex": rule,
        "level": "error" if finding.is_open else "note",
        "message": {"text": f"{finding.stage} {finding.resource}: {finding.message}"},
        "locations": [{"physicalLocation": location, "logicalLocations": [{"fullyQualifiedName": finding.resource}]}],
    }
    if not finding.is_open:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.reason}]
    return result


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
