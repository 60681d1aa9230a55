"""The policy gate: every stage passes it, and a violation ends a synth with a report in place of a traceback."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.loader import stage_names
from tools.node import node_binary

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120
#: The real app with one stack more.
APP_WITH = """
import app
import aws_cdk as cdk

def define_stacks(scope, stage):
    stack = cdk.Stack(scope, "Extra")
    {body}

app.define_stacks = define_stacks
app.main()
"""
OPEN_BUCKET = 'from aws_cdk import aws_s3 as s3; s3.CfnBucket(stack, "Open")'
BROKEN_TEMPLATE = 'cdk.CfnResource(stack, "Queue", type="AWS::SQS::Queue", properties={"DelaySeconds": "soon"})'


@dataclass(frozen=True)
class Checked:
    """What a synth said and reported."""

    done: subprocess.CompletedProcess[str]
    report: dict[str, Any]


def synth(folder: Path, *arguments: str, **context: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "JSII_NODE": str(node_binary()),
        "CDK_OUTDIR": str(folder / "cdk.out"),
        "CDK_CONTEXT_JSON": json.dumps(context),
    }
    # pytest's own variables make CDK report in another way than outside of it.
    for name in ("PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    command = [sys.executable, *(arguments or ["app.py"])]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.fixture(scope="module", params=stage_names())
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """One full synth of each stage with all checks."""
    folder = tmp_path_factory.mktemp(request.param)
    done = synth(folder, stage=request.param, validate="true")
    return Checked(done, json.loads((folder / "cdk.out" / "validation-report.json").read_text()))


def test_every_stage_passes_the_gate_and_cloudformations_schemas(checked: Checked) -> None:
    conclusions = {plugin["pluginName"]: plugin["conclusion"] for plugin in checked.report["pluginReports"]}

    assert (checked.done.returncode, checked.done.stderr) == (0, "")
    assert conclusions["AwsSolutions"] == "success"


def test_every_acknowledgement_is_on_the_resource_itself_and_gives_a_reason(checked: Checked) -> None:
    accepted = [found for plugin in checked.report["pluginReports"] for found in plugin["suppressedViolations"]]

    assert accepted
    for found in accepted:
        assert len(found["reason"]) > 30, found["ruleName"]
        for place in found["violatingConstructs"]:
            # An L2 construct and the one resource in it count as the same place.
            assert place["constructPath"].removesuffix("/Resource") == found["acknowledgedAt"].removesuffix("/Resource")


def test_a_violation_ends_with_rule_resource_message_and_fix(tmp_path: Path) -> None:
    done = synth(tmp_path, "-c", APP_WITH.format(body=OPEN_BUCKET), stage="twin")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("policy gate: ")
    assert (
        "AwsSolutions-S1\n"
        "  resource: Extra/Open\n"
        "  message:  The S3 Bucket has server access logs disabled.\n"
        "  fix:      change the resource, or acknowledge AwsSolutions::AwsSolutions-S1 with a reason on it"
    ) in done.stderr


def test_a_template_that_cloudformation_would_refuse_fails_when_asked_for(tmp_path: Path) -> None:
    program = APP_WITH.format(body=BROKEN_TEMPLATE)

    done = synth(tmp_path, "-c", program, stage="twin", validate="true")

    assert done.returncode == 1
    assert "resource: Extra/Queue" in done.stderr
    assert "DelaySeconds" in done.stderr


def test_an_unknown_stage_ends_with_the_known_ones(tmp_path: Path) -> None:
    done = synth(tmp_path, stage="qa")

    assert (done.returncode, done.stderr) == (
        1,
        "stage must be one of dev, prod, twin, got 'qa': cdk synth -c stage=dev\n",
    )


def test_synth_needs_no_stage_no_credentials_and_no_network(tmp_path: Path) -> None:
    environment = {
        "PATH": "/nonexistent",
        "HOME": str(tmp_path),
        "CDK_OUTDIR": str(tmp_path / "cdk.out"),
        # Only the packages that jsii has unpacked before are shared: unpacking takes ten seconds.
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(Path.home() / ".cache" / "aws" / "jsii" / "package-cache"),
        # A call to AWS would have to go through it, and nobody listens there.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads((tmp_path / "cdk.out" / "manifest.json").read_text())
    names = {each["properties"].get("stackName") for each in manifest["artifacts"].values() if "properties" in each}
    assert "edgewright-twin-storage" in names
