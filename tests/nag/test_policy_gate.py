"""The policy gate: every stage passes it, and a violation ends a synth with a report in place of a traceback."""

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.loader import stage_names
from tests import synthesis
from tests.synthesis import Synthesis, run_app

PACKS = ("AwsSolutions", "NIST.800.53.R5", "Serverless", "EdgeChecks")
#: How often each finding is accepted in each stage: a new one is seen in review.
AGREED = Path(__file__).parent / "acknowledgements.json"
#: The real app with one stack more.
APP_WITH = """
import app
import aws_cdk as cdk

def define_stacks(scope, stage):
    stack = cdk.Stack(scope, "Extra")
    {body}

app.define_stacks = define_stacks
"""
OPEN_BUCKET = 'from aws_cdk import aws_s3 as s3; s3.CfnBucket(stack, "Open")'
UNSAFE_COMPONENT = """
    from aws_cdk import aws_greengrassv2 as greengrass
    component = greengrass.CfnComponentVersion(stack, "Unsafe", inline_recipe='{{"Manifests": []}}')
    if {acknowledged}:
        from edge_constructs.permission import acknowledge
        acknowledge(component, {{"Edge-ComponentRetain": "nothing was ever deployed with it"}})
"""
BROKEN_TEMPLATE = 'cdk.CfnResource(stack, "Queue", type="AWS::SQS::Queue", properties={"DelaySeconds": "soon"})'


@dataclass(frozen=True)
class Checked:
    """What a synth said and reported."""

    stage: str
    done: Synthesis
    report: dict[str, Any]


def suppressed(report: dict[str, Any]) -> list[dict[str, Any]]:
    # CDK's own annotations cannot be acknowledged.
    return [found for plugin in report["pluginReports"] for found in plugin.get("suppressedViolations", ())]


def open_findings(report: dict[str, Any]) -> list[str]:
    """Every finding of a pack that nobody accepted, warnings included."""
    return [
        found["ruleName"]
        for plugin in report["pluginReports"]
        if plugin["pluginName"] in PACKS
        for found in plugin["violations"]
    ]


def unexpected(said: str) -> str:
    """What a synth says beside the one line that every good one has."""
    return re.sub(r"synth: \d+ of \d+ components on a device, .* places? left\n", "", said, count=1)


@pytest.fixture(scope="module", params=stage_names())
def checked(request: pytest.FixtureRequest) -> Checked:
    """One full synth of each stage with all checks."""
    done = synthesis.checked(request.param)
    return Checked(request.param, done, json.loads((done.assembly / "validation-report.json").read_text()))


def test_every_stage_passes_the_gate_and_cloudformations_schemas(checked: Checked) -> None:
    conclusions = {plugin["pluginName"]: plugin["conclusion"] for plugin in checked.report["pluginReports"]}

    assert (checked.done.returncode, unexpected(checked.done.stderr)) == (0, "")
    assert set(conclusions.values()) == {"success"}
    # A pack that found nothing at all is not in the report.
    assert set(conclusions) >= set(PACKS) - {"EdgeChecks"}
    assert open_findings(checked.report) == []


def test_acknowledgements_are_the_agreed_ones(checked: Checked) -> None:
    counts = Counter(found["acknowledgedId"] for found in suppressed(checked.report))
    agreed = json.loads(AGREED.read_text(encoding="utf-8")) if AGREED.is_file() else {}
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        agreed = {**agreed, checked.stage: dict(sorted(counts.items()))}
        AGREED.write_text(json.dumps(agreed, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    assert counts == agreed[checked.stage], "if it is meant: UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/nag"


def test_every_acknowledgement_is_on_the_resource_itself_and_gives_a_reason(checked: Checked) -> None:
    accepted = suppressed(checked.report)

    assert accepted
    for found in accepted:
        assert len(found["reason"]) > 30, found["ruleName"]
        for place in found["violatingConstructs"]:
            # An L2 construct and the one resource in it count as the same place.
            assert place["constructPath"] in {found["acknowledgedAt"], f"{found['acknowledgedAt']}/Resource"}


def test_a_violation_ends_with_rule_resource_message_and_fix(tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=OPEN_BUCKET), stage="twin")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("policy gate: ")
    assert (
        "AwsSolutions-S1\n"
        "  resource: Extra/Open\n"
        "  message:  The S3 Bucket has server access logs disabled.\n"
        "  fix:      change the resource, or acknowledge AwsSolutions::AwsSolutions-S1 with a reason on it"
    ) in done.stderr


def test_an_edge_rule_ends_with_property_message_and_its_own_fix(tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=UNSAFE_COMPONENT.format(acknowledged=False)), stage="twin")

    assert done.returncode == 1
    assert (
        "Edge-ComponentRetain\n"
        "  resource: Extra/Unsafe (UpdateReplacePolicy)\n"
        "  message:  a replaced component version must be retained, got None: "
        "a device that is offline still needs the version that it was told to run\n"
        "  fix:      set UpdateReplacePolicy to Retain, and sweep retained versions at destroy, "
        "or acknowledge EdgeChecks::Edge-ComponentRetain with a reason on it"
    ) in done.stderr


def test_an_acknowledged_edge_rule_passes(tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=UNSAFE_COMPONENT.format(acknowledged=True)), stage="twin")

    assert (done.returncode, done.stderr) == (0, "")


def test_a_template_that_cloudformation_would_refuse_fails_when_asked_for(tmp_path: Path) -> None:
    program = APP_WITH.format(body=BROKEN_TEMPLATE)

    done = run_app(tmp_path, program, stage="twin", validate="true")

    assert done.returncode == 1
    assert "resource: Extra/Queue" in done.stderr
    assert "DelaySeconds" in done.stderr


def test_an_unknown_stage_ends_with_the_known_ones(tmp_path: Path) -> None:
    done = run_app(tmp_path, stage="qa")

    assert (done.returncode, done.stderr) == (
        1,
        "stage must be one of dev, prod, twin, got 'qa': name one of them, or write config/qa.toml\n",
    )


def test_synth_needs_no_stage_no_credentials_and_no_network() -> None:
    done = synthesis.bare()

    assert (done.returncode, unexpected(done.stderr)) == (0, "")
    manifest = json.loads((done.assembly / "manifest.json").read_text())
    names = {each["properties"].get("stackName") for each in manifest["artifacts"].values() if "properties" in each}
    assert "edgewright-twin-storage" in names
