"""Every check on every stage, with a table of what is open and what was accepted, where and why.

    python -m tools.compliance [--stage dev] [--out out/compliance]

Writes compliance.md, compliance.xml (JUnit) and compliance.sarif. Exit codes: 0 nothing open, 1 no answer, 2 open
findings.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from config.loader import ConfigurationError, load_stage, stage_names
from config.places import PROJECT as ROOT
from tools.compliance_findings import AnalyserError, Assembly, Finding, accept, analyse, of_report, read_exceptions

SYNTH_LIMIT_S = 300
REPORT = "validation-report.json"
OPEN = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.compliance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", action="append", choices=stage_names(), help="stage to check (default: all)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "compliance", help="folder of the reports")
    options = parser.parse_args(arguments)
    try:
        stages = options.stage or stage_names()
        findings = check(stages, options.out.resolve())
        findings = list(accept(findings, read_exceptions()))
    except (AnalyserError, ConfigurationError, ValueError, OSError) as exc:
        print(f"compliance: {exc}", file=sys.stderr)
        return 1
    for name, text in (
        ("compliance.md", as_markdown(findings)),
        ("compliance.xml", as_junit(findings)),
        ("compliance.sarif", as_sarif(findings)),
    ):
        (options.out / name).write_text(text, encoding="utf-8")
    opened = [each for each in findings if each.is_open]
    for each in opened:
        print(f"{each.tool} {each.rule}\n  resource: {each.stage} {each.resource}\n  message:  {each.message}")
    accepted = len(findings) - len(opened)
    print(f"compliance: {len(opened)} open, {accepted} accepted; table in {options.out}/compliance.md")
    return OPEN if opened else 0


def check(stages: Sequence[str], work: Path) -> list[Finding]:
    """Synthesise stages with all packs, and let the analysers look at their templates.

    Args:
        stages: Names of the stages.
        work: Gets a folder for each.

    Raises:
        AnalyserError: A synth failed for another reason than findings, or an analyser did.
    """
    with ThreadPoolExecutor(max_workers=2) as pool:
        made = list(pool.map(lambda stage: _synth(stage, work / stage / "cdk.out"), stages))
    findings = [
        finding
        for assembly in made
        for finding in of_report(assembly.stage, json.loads((assembly.folder / REPORT).read_text(encoding="utf-8")))
    ]
    # Analysers answer stages in an order of their own; the reports have one order.
    return sorted([*findings, *analyse(made, work)], key=lambda finding: stages.index(finding.stage))


def _synth(stage: str, folder: Path) -> Assembly:
    # Stacks that the stage no longer has must not be looked at.
    shutil.rmtree(folder, ignore_errors=True)
    context = json.dumps({"stage": stage, "validate": "true"})
    environment = {**os.environ, "CDK_OUTDIR": str(folder), "CDK_CONTEXT_JSON": context}
    command = [sys.executable, "app.py"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SYNTH_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AnalyserError(f"{stage} must be synthesised within {SYNTH_LIMIT_S} s: run make synth to see why") from exc
    # A synth with findings has written its report and ends with 1; without a report it is another failure.
    if not (folder / REPORT).is_file():
        raise AnalyserError(f"{stage} cannot be synthesised:\n{done.stderr.strip()}")
    return Assembly(stage, load_stage(stage).region, folder)


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


if __name__ == "__main__":
    sys.exit(main())
