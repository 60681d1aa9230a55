"""What a user sees of a synth that fails: a few lines, exit code 1, and a traceback only when asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nag.test_policy_gate import APP_WITH
from tests.synthesis import run_app

ROOT = Path(__file__).resolve().parents[2]

BAD_NAME = 'from aws_cdk import aws_s3 as s3; s3.Bucket(stack, "Named", bucket_name="Not_A_Name")'
BAD_PERMISSION = 'from edge_constructs.permission import Permission; Permission(("s3:GetObject",), ("*",))'
NO_WHEELS = """
    from pathlib import Path
    from edge_constructs.edge_assets import runtime_archive
    runtime_archive("3.99", "x86_64", Path("/nonexistent"))
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (BAD_NAME, "synth: Invalid S3 bucket name (value: Not_A_Name)"),
        (BAD_PERMISSION, "synth: wildcard_reason must say why a wildcard is acceptable, got none for *\n  at:  "),
        (NO_WHEELS, "the wheels for Python 3.99 on x86_64 are missing at edge_assets/runtime/wheelhouse/"),
        ("raise KeyError('topics')", "synth: KeyError: 'topics'"),
    ],
)
def test_a_failure_says_what_and_where_without_a_traceback(body: str, says: str, tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=body), stage="twin")

    assert done.returncode == 1
    assert done.stderr.startswith(says)
    assert "Traceback" not in done.stderr
    assert "node:internal" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


@pytest.mark.parametrize("content", ["{", "[]", '{"context": 5}'])
def test_a_damaged_cdk_json_is_told_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "cdk.json").write_text(content)
    program = f"""
import app
from pathlib import Path
from config import loader
app.read_context = lambda: loader.read_context(Path({str(tmp_path / "cdk.json")!r}))
"""

    done = run_app(tmp_path, program, stage="twin")

    assert done.returncode == 1
    assert done.stderr.startswith("cdk.json must be ")
    assert done.stderr.endswith(": correct or restore it\n")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=BAD_PERMISSION), stage="twin", debug="true")

    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_a_place_in_this_repository_is_named(tmp_path: Path) -> None:
    done = run_app(tmp_path, APP_WITH.format(body=BAD_PERMISSION), stage="twin")

    assert "\n  at:  constructs/edge_constructs/permission.py:" in done.stderr
    assert done.stderr.endswith("\n  fix: correct it there; -c debug=true shows the whole traceback\n")


LONG_SCRIPT = """
from stacks import device_stacks
device_stacks.user_data_script = lambda kind: '#' * 20_000
"""
BROKEN = "import app\ndef broken(*_): raise KeyError('gone')\napp.define_stacks = broken"


def test_user_data_that_is_too_long_is_clear(tmp_path: Path) -> None:
    result = run_app(tmp_path, LONG_SCRIPT, stage="dev")

    assert result.returncode == 1
    assert result.stderr.startswith("synth: user data must fit into 16384 bytes, got ")
    assert "\n  at:  constructs/edge_constructs/edge_server.py:" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_a_library_names_its_kind_and_how_to_see_more(tmp_path: Path) -> None:
    result = run_app(tmp_path, BROKEN, stage="dev")

    assert result.returncode == 1
    assert result.stderr.startswith("synth: KeyError: 'gone'\n  at:  ")
    assert result.stderr.endswith("; -c debug=true shows the whole traceback\n")


def test_debug_shows_the_traceback_of_a_library(tmp_path: Path) -> None:
    result = run_app(tmp_path, BROKEN, stage="dev", debug="true")

    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("stage", ["prdo", ""])
def test_an_unknown_stage_needs_no_traceback(tmp_path: Path, stage: str) -> None:
    result = run_app(tmp_path, "", **({"stage": stage} if stage else {"stage": "../etc"}))

    assert result.returncode == 1
    assert result.stderr.startswith("stage must be one of dev, prod, twin")


def ended(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "CDK_OUTDIR": str(tmp_path / "cdk.out"), "CDK_CONTEXT_JSON": '{"stage": "prdo"}'}
    return subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**settings, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_folder_of_templates_that_cannot_be_made_needs_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = ended(tmp_path, CDK_OUTDIR=str(tmp_path / "file" / "cdk.out"))

    assert done.returncode == 1
    assert done.stderr.startswith("synth: ENOTDIR: ")
    assert str(tmp_path / "file" / "cdk.out") in done.stderr
    assert "Traceback" not in done.stderr


def test_the_app_finds_its_modules_where_python_leaves_out_the_scripts_folder(tmp_path: Path) -> None:
    done = ended(tmp_path, PYTHONSAFEPATH="1")

    assert done.stderr.startswith("stage must be one of ")
