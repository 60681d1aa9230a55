"""What was accepted before the disk was full is not lost. A limit of file sizes stands for the full disk: no root."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from ministack.services import lambda_svc
from typer.testing import CliRunner

from tests.twin.conftest import wait_until
from twin import TwinError, lifecycle
from twin.cli import application
from twin.cloud import snapshots
from twin.state import TwinState, lacking, look_unsaved, unsaved_mark

ONCE = Config(retries={"total_max_attempts": 1})


def limit_files(state: TwinState, size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    psutil.Process(state.pid).rlimit(psutil.RLIMIT_FSIZE, (size, hard))


def test_down_on_a_full_disk_says_what_is_not_saved_and_loses_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_HOME", str(home))
    state = lifecycle.start(home)
    ssm, s3 = (boto3.client(service, config=ONCE, **state.client_arguments()) for service in ("ssm", "s3"))
    s3.create_bucket(Bucket="bucket")
    s3.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket="bucket", Key="key", Body=b"before")
    limit_files(state, 0)

    ssm.put_parameter(Name="/accepted", Value="1", Type="String")
    with pytest.raises(ClientError, match=r"ServiceUnavailable.*cannot keep the object"):
        s3.put_object(Bucket="bucket", Key="key", Body=b"while it was full")
    with pytest.raises(TwinError, match=r"must be saved before it stops, got .*ssm.*File too large.*Make room"):
        lifecycle.stop(home)
    shown = wait_until(lambda: look_unsaved(state)) and CliRunner().invoke(application, ["status"]).output

    assert state.running
    assert "not saved: " in shown
    assert "ssm" in shown
    assert lacking(state) == f"needs room in {home}: File too large"
    limit_files(state, resource.RLIM_INFINITY)
    assert lifecycle.stop(home)
    again = lifecycle.start(home)
    assert lacking(again) == ""
    assert boto3.client("ssm", **again.client_arguments()).get_parameter(Name="/accepted")["Parameter"]["Value"] == "1"
    assert s3.get_object(Bucket="bucket", Key="key")["Body"].read() == b"before"

    limit_files(again, 0)
    boto3.client("ssm", **again.client_arguments()).put_parameter(Name="/lost", Value="1", Type="String")
    assert lifecycle.stop(home, anyway=True)
    assert unsaved_mark(home).exists()


def test_what_is_no_matter_of_room_is_not_taken_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.state._ask", lambda *_: {"iot": "Object of type set is not JSON serializable"})

    assert lacking(SimpleNamespace(home=home)) == ""  # type: ignore[arg-type]


def test_up_on_a_full_disk_says_so_and_starts_nothing(home: Path) -> None:
    home.mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))"
    script = f"{limit}; import runpy, sys; sys.argv = ['twin', 'up']; runpy.run_module('twin', run_name='__main__')"

    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TWIN_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "MB left for the twin's state" in " ".join(result.stderr.split())
    assert not (home / "state.json").exists()


def test_a_cloud_whose_state_file_cannot_be_written_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: TwinState) -> None:
        raise OSError(28, "No space left on device", str(state.home / "state.json"))

    monkeypatch.setattr(lifecycle, "save_state", full)

    with pytest.raises(TwinError, match=r"state\.json must be writable, got .*No space left"):
        lifecycle.start(home)

    assert not lifecycle.stop(home)


def test_the_code_of_a_function_is_kept_until_the_files_no_longer_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lambda_svc, "CODE_BLOB_DIR", str(tmp_path))
    saved = snapshots.Snapshots(tmp_path / "state")
    named = {"old", "both"}

    def state() -> list[str]:
        snapshots._keep_code(lambda _named: None, named)
        return sorted(named)

    for name in ("old", "both", "new"):
        (tmp_path / f"{name}.zip").touch()
    saved.take_last({"lambda": state})
    assert {path.stem for path in tmp_path.glob("*.zip")} == {"old", "both"}

    (tmp_path / "new.zip").touch()
    named = {"both", "new"}
    with monkeypatch.context() as full:
        full.setattr(snapshots, "write_together", no_room)
        saved.take_last({"lambda": state})
    assert {path.stem for path in tmp_path.glob("*.zip")} == {"old", "both", "new"}

    saved.take_last({"lambda": state})
    assert {path.stem for path in tmp_path.glob("*.zip")} == {"both", "new"}


def no_room(_folder: Path, _texts: dict[str, str]) -> None:
    raise OSError(28, "No space left on device")
