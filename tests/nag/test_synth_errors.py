"""What a user sees of a synth that fails: a few lines, exit code 1, and a traceback only when asked for."""

from pathlib import Path

import pytest

from tests.nag.test_policy_gate import APP_WITH, synth

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
    done = synth(tmp_path, "-c", APP_WITH.format(body=body), stage="twin")

    assert done.returncode == 1
    assert done.stderr.startswith(says)
    assert "Traceback" not in done.stderr
    assert "node:internal" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = synth(tmp_path, "-c", APP_WITH.format(body=BAD_PERMISSION), stage="twin", debug="true")

    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr


def test_a_place_in_this_repository_is_named(tmp_path: Path) -> None:
    done = synth(tmp_path, "-c", APP_WITH.format(body=BAD_PERMISSION), stage="twin")

    assert "\n  at:  constructs/edge_constructs/permission.py:" in done.stderr
    assert done.stderr.endswith("\n  fix: correct it there; -c debug=true shows the whole traceback\n")
