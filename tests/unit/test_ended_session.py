"""A session that is ended from outside."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIMIT_S = 120
TEST = """
import pathlib, time, pytest

@pytest.fixture(scope="module")
def twin():
    pathlib.Path("started").touch()
    yield
    pathlib.Path("ended").touch()

def test_that_takes_long(twin):
    time.sleep(600)
"""


@pytest.mark.parametrize("before", ["", "trap '' INT; "], ids=["in front", "in the background"])
def test_a_session_that_is_terminated_ends_what_its_fixtures_have_started(tmp_path: Path, before: str) -> None:
    (tmp_path / "test_long.py").write_text(TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "test_long.py",
    ]
    session = subprocess.Popen(
        ["/bin/sh", "-c", f"{before}exec {shlex.join(command)}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + LIMIT_S
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            assert session.poll() is None, session.communicate()[0]
            time.sleep(0.05)

        session.send_signal(signal.SIGTERM)
        output, _ = session.communicate(timeout=LIMIT_S)
    finally:
        session.kill()

    assert (tmp_path / "ended").exists(), output
    assert session.returncode == 2, "interrupted, as by a keyboard"
