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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from config.loader import ConfigurationError, load_stage, stage_names
from tools.cdk_cli import ROOT
from tools.compliance_analysers import AnalyserError, Assembly, analyse
from tools.compliance_findings import Finding, accept, of_report, read_exceptions
from tools.compliance_output import as_junit, as_markdown, as_sarif

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


if __name__ == "__main__":
    sys.exit(main())
