"""The developer's command with the real SageMaker SDK on the twin; skipped where that gigabyte is not installed."""

from __future__ import annotations

import json

import pytest

from tests.twin.conftest import Clients, trust
from tools.compile_model import CompilationFailedError, follow, prepare, submit
from twin.state import TwinState

pytest.importorskip("sagemaker.core", reason="pip install -r requirements-sagemaker.txt")
BUCKET = "developer"


@pytest.fixture
def role(client: Clients, twin: TwinState, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in twin.environment().items():
        monkeypatch.setenv(name, value)
    client("s3").create_bucket(Bucket=BUCKET)
    made = client("iam").create_role(
        RoleName="developer", AssumeRolePolicyDocument=json.dumps(trust("sagemaker.amazonaws.com"))
    )
    return str(made["Role"]["Arn"])


def test_submits_and_follows_a_real_job(client: Clients, twin: TwinState, role: str) -> None:
    statuses: list[str] = []
    job, content = prepare("twin", "digits", role, BUCKET, 5)

    uri = follow(submit(job, content, twin.region, client("s3")), 120, statuses.append)

    assert statuses[-1] == "COMPLETED"
    assert client("s3").head_object(Bucket=BUCKET, Key=uri.removeprefix(f"s3://{BUCKET}/"))["ContentLength"] > 0
    again = submit(job, content, twin.region, client("s3"))
    assert again.compilation_job_status == "COMPLETED", "a job that is there already is followed, not made twice"

    broken, _ = prepare("twin", "digits", role, BUCKET, 6)
    broken = type(broken)(**{**vars(broken), "data_input_config": '{"image":[1,3,8,8]}'})
    with pytest.raises(CompilationFailedError, match="is FAILED: ClientError: InputConfiguration: DataInputConfig"):
        follow(submit(broken, content, twin.region, client("s3")), 120, statuses.append)
