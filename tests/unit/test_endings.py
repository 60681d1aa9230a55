"""Programs that are interrupted or whose reader has gone: what is shown of it, and how they end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTLED = "from config.endings import settle_endings; settle_endings(); "


def with_a_closed_output(*arguments: str, buffered: bool) -> subprocess.CompletedProcess[str]:
    """Run Python, its output a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment if buffered else {**environment, "PYTHONUNBUFFERED": "1"},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("program", "importing"),
    [(["app.py"], "aws_cdk"), (["-m", "tools.doctor"], "tools.node"), (["-m", "twin"], "twin.cli")],
)
def test_ctrl_c_is_told_in_a_line_also_during_the_imports(program: list[str], importing: str, tmp_path: Path) -> None:
    # As the key does, at a moment that no machine's speed moves.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        # What a shell starts behind its back ignores the key, and so do the tests' own processes.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {importing!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, *program]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert ended.stderr == "interrupted\n"
    assert ended.returncode == -signal.SIGINT  # 130 to a shell


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "tools.reference"),
        ("-m", "tools.bill", "--help"),
        ("-m", "tools.model", "check", "edge_assets/models/iris"),
        ("-m", "edgewright.cli", "bill", "--help"),
    ],
)
def test_a_reader_that_has_gone_is_no_error(arguments: tuple[str, ...], buffered: bool) -> None:
    ended = with_a_closed_output(*arguments, buffered=buffered)

    assert ended.stderr == ""
    assert ended.returncode in (0, 1)


def test_another_pipe_that_breaks_is_an_error_with_its_traceback() -> None:
    command = [sys.executable, "-c", SETTLED + "print('all'); raise BrokenPipeError(32, 'to the device')"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.stdout == "all\n"
    assert "BrokenPipeError: [Errno 32] to the device" in ended.stderr


def test_a_mistake_in_an_import_of_a_package_that_is_there_keeps_its_traceback() -> None:
    command = [sys.executable, "-c", SETTLED + "import config.no_such_module"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "Traceback" in ended.stderr


LOSING = """
import gc, os, signal, sys, time

signal.signal(signal.SIGINT, signal.default_int_handler)


class Loses:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass


"""


def test_an_interrupt_that_comes_while_a_finalizer_runs_is_not_lost() -> None:
    program = f"{SETTLED}{LOSING}lost = Loses()\ndel lost\ntime.sleep(60)\nprint('went on')"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert (ended.stdout, ended.stderr) == ("", "interrupted\n")
    assert ended.returncode == -signal.SIGINT


def test_an_interrupt_that_is_lost_just_before_the_end_still_ends_the_program_so() -> None:
    program = f"{SETTLED}import config.endings\nconfig.endings._AGAIN_S = 600\n{LOSING}lost = Loses()\ndel lost"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert ended.stderr == ""
    assert ended.returncode == -signal.SIGINT


def test_another_error_of_a_finalizer_is_told() -> None:
    program = SETTLED + "exec('class Fails:\\n def __del__(self): raise ValueError(1)')\nfailing = Fails()\ndel failing"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "ValueError: 1" in ended.stderr
    assert ended.returncode == 0
