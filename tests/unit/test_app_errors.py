"""Whatever is wrong with a stage ends the synth with one text and exit code 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cdk_cli import ROOT


def synth(folder: Path, program: str, **context: str) -> subprocess.CompletedProcess[str]:
    """Run the app with something in it replaced before it starts."""
    environment = {
        **os.environ,
        "CDK_OUTDIR": str(folder / "out"),
        "CDK_CONTEXT_JSON": json.dumps(context),
        "PYTHONPATH": str(ROOT),
    }
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\nimport app\n{program}\napp.main()"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LONG_SCRIPT = """
from stacks import edge_server_stack
edge_server_stack.user_data_script = lambda kind: '#' * 20_000
"""


def test_user_data_that_is_too_long_is_clear(tmp_path: Path) -> None:
    result = synth(tmp_path, LONG_SCRIPT, stage="dev")

    assert result.returncode == 1
    assert result.stderr.startswith("synth: user data must fit into 16384 bytes, got ")
    assert "\n  at:  constructs/edge_constructs/edge_server.py:" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_of_a_library_names_its_kind_and_how_to_see_more(tmp_path: Path) -> None:
    result = synth(tmp_path, "def broken(*_): raise KeyError('gone')\napp.define_stacks = broken", stage="dev")

    assert result.returncode == 1
    assert result.stderr.startswith("synth: KeyError: 'gone'\n  at:  ")
    assert result.stderr.endswith("; -c debug=true shows the whole traceback\n")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = synth(
        tmp_path, "def broken(*_): raise KeyError('gone')\napp.define_stacks = broken", stage="dev", debug="true"
    )

    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("stage", ["prdo", ""])
def test_an_unknown_stage_needs_no_traceback(tmp_path: Path, stage: str) -> None:
    result = synth(tmp_path, "", **({"stage": stage} if stage else {"stage": "../etc"}))

    assert result.returncode == 1
    assert result.stderr.startswith("stage must be one of dev, prod, twin")
