"""The developer's command: the stack's own job, followed to its real end."""

from types import SimpleNamespace
from typing import Any

import pytest

from tools import compile_model
from tools.compile_model import CompilationFailedError, follow, prepare

ROLE = "arn:aws:iam::111122223333:role/compiler"


class Job:
    """The SDK's job: each refresh moves it to the next status."""

    compilation_job_name = "edgewright-dev-digits-0123456789ab"
    compilation_job_status = "STARTING"
    failure_reason = "ClientError: no model"
    model_artifacts = SimpleNamespace(s3_model_artifacts="s3://bucket/compiled/model.tar.gz")

    def __init__(self, *statuses: str) -> None:
        self._statuses = list(statuses)

    def refresh(self) -> None:
        if self._statuses:
            self.compilation_job_status = self._statuses.pop(0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_model, "POLL_S", 0)


def test_tells_each_status_once_and_where_the_artifact_is() -> None:
    told: list[str] = []

    uri = follow(Job("STARTING", "INPROGRESS", "INPROGRESS", "COMPLETED"), 60, told.append)

    assert uri == "s3://bucket/compiled/model.tar.gz"
    assert told == ["STARTING", "INPROGRESS", "COMPLETED"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [("FAILED", "ClientError: no model"), ("STOPPED", "it was stopped before it made an artifact")],
)
def test_a_job_that_made_nothing_is_a_failure(status: str, reason: str) -> None:
    with pytest.raises(CompilationFailedError, match=f"-0123456789ab is {status}: {reason}"):
        follow(Job("INPROGRESS", status), 60, lambda _status: None)


def test_the_wait_has_an_end() -> None:
    with pytest.raises(CompilationFailedError, match="must end within 0 s, it is INPROGRESS"):
        follow(Job("INPROGRESS"), 0, lambda _status: None)


def test_the_job_is_the_one_that_the_stack_would_start() -> None:
    job, content = prepare("dev", "digits", ROLE, "bucket", 10)

    arguments: dict[str, Any] = job.creation_arguments()
    assert job.name.startswith("edgewright-dev-digits-")
    assert arguments["InputConfig"]["DataInputConfig"] == '{"image":[1,1,8,8]}'
    assert arguments["OutputConfig"]["TargetPlatform"] == {"Os": "LINUX", "Arch": "X86_64"}
    assert arguments["StoppingCondition"] == {"MaxRuntimeInSeconds": 600}
    assert content[:2] == b"\x1f\x8b"


COMMAND = ("digits", "--role", ROLE, "--bucket", "bucket")


def test_the_command_prints_where_the_artifact_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_model, "require", lambda *_: None)
    monkeypatch.setattr(compile_model, "submit", lambda *_: Job("INPROGRESS", "COMPLETED"))

    assert compile_model.main(COMMAND) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("edgewright-dev-digits-")
    assert [line.split()[-1] for line in lines[1:]] == [
        "INPROGRESS",
        "COMPLETED",
        Job.model_artifacts.s3_model_artifacts,
    ]


def test_the_command_fails_with_the_reason_of_the_job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compile_model, "require", lambda *_: None)
    monkeypatch.setattr(compile_model, "submit", lambda *_: Job("FAILED"))

    assert compile_model.main(COMMAND) == 1

    assert "is FAILED: ClientError: no model" in capsys.readouterr().err


def test_the_command_refuses_a_limit_below_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compile_model.main([*COMMAND, "--minutes", "0"])

    assert "--minutes must be at least 1, got 0" in capsys.readouterr().err
