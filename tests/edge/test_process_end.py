"""A component's process ends with its own exit code, whatever its threads are doing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge.model_folder import DIGITS, ROOT

LOADING = f"""
import threading, time
import onnxruntime
from edge_inference import process_end

def load():
    while True:
        onnxruntime.InferenceSession({str(DIGITS / "model.onnx")!r}, providers=["CPUExecutionProvider"])

def main():
    threading.Thread(target=load, daemon=True).start()
    time.sleep(0.2)
    return 3

process_end.run(main)
"""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.timeout(180)
def test_ends_with_its_own_code_while_a_model_is_being_loaded() -> None:
    # With Python's own ending three of ten are aborted.
    assert [run(LOADING).returncode for _ in range(10)] == [3] * 10


def test_tells_an_error_that_nobody_expected_and_ends_with_1() -> None:
    ended = run("from edge_inference import process_end\nprocess_end.run(lambda: 1 // 0)")

    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr


def test_what_was_printed_arrives() -> None:
    ended = run("from edge_inference import process_end\nprocess_end.run(lambda: print('told') or 0)")

    assert (ended.returncode, ended.stdout) == (0, "told\n")


def test_a_wrong_command_line_ends_as_argparse_says(tmp_path: Path) -> None:
    code = "import sys\nfrom edge_inference import process_end\nprocess_end.run(lambda: sys.exit(2))"

    assert run(code).returncode == 2
