"""The developer's command with the real SageMaker SDK on the twin, in the environment of `make setup-sagemaker`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.twin.conftest import Clients, trust
from twin.state import TwinState

pytestmark = pytest.mark.sagemaker
ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-sagemaker" / "bin" / "python"
BUCKET = "developer"
LIMIT_S = 240
#: The same calls as the command's, for a job that no declaration of a model can ask for.
BROKEN = """
import dataclasses, sys, boto3
from tools.compile_model import follow, prepare, submit
job, content = prepare("twin", "digits", sys.argv[1], "developer", 6)
broken = dataclasses.replace(job, input_shapes={"image": [1, 3, 8, 8]})
follow(submit(broken, content, sys.argv[2], boto3.client("s3", region_name=sys.argv[2])), 120, print)
"""


@pytest.fixture
def role(client: Clients) -> str:
    assert PYTHON.exists(), "make setup-sagemaker makes the environment that this needs"
    client("s3").create_bucket(Bucket=BUCKET)
    made = client("iam").create_role(
        RoleName="developer", AssumeRolePolicyDocument=json.dumps(trust("sagemaker.amazonaws.com"))
    )
    return str(made["Role"]["Arn"])


def run(twin: TwinState, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **twin.environment(), "COLUMNS": "200"}
    return subprocess.run(
        [str(PYTHON), *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def test_submits_and_follows_a_real_job(client: Clients, twin: TwinState, role: str) -> None:
    command = ["-m", "tools.compile_model", "digits", "--stage", "twin", "--role", role, "--bucket", BUCKET]

    done = run(twin, *command)

    assert done.returncode == 0, done.stderr
    assert "COMPLETED" in done.stdout
    uri = done.stdout.strip().splitlines()[-1]
    assert client("s3").head_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"))["ContentLength"] > 0

    again = run(twin, *command)
    assert (again.returncode, again.stdout.strip().splitlines()[-1]) == (0, uri), again.stderr
    jobs = client("sagemaker").list_compilation_jobs()["CompilationJobSummaries"]
    assert len(jobs) == 1, "a job that is there already is followed, not made twice"

    broken = run(twin, "-c", BROKEN, role, twin.region)
    assert broken.returncode == 1
    assert "is FAILED: ClientError: InputConfiguration: DataInputConfig" in broken.stderr
