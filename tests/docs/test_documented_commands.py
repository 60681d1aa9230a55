"""Whoever follows the documentation has what its commands need, and the commands have what it says of them."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.docs.documented_commands import COMMON, ROOT, Command, documented
from tools.set_up import ENVIRONMENTS

LOCKS = {"setup" if name == "run" else f"setup-{name}": environment.locks for name, environment in ENVIRONMENTS.items()}
#: Loaded once for all programs of a set-up that has them.
SHARED = ("typer.rich_utils", "rich.markdown", "boto3", "pydantic", "httpx", "yaml", "cryptography.x509", "psutil")
SHARED_BY_CHECKS = ("pytest", "onnxruntime", "sklearn.datasets", "sklearn.neural_network", "onnx", "PIL.Image", "grpc")
LIMIT_S = 120
MODELS = "edge_assets/models"
#: Without its packages a command ends at once and says what brings them.
TOLD = {
    ("setup", "-m tools.train_digits"): ("setup-dev", ("sklearn", "onnx")),
    ("setup", "-m tools.train_iris"): ("setup-dev", ("sklearn", "onnx")),
    ("setup", "-m tools.export_resnet18"): ("setup-dev", ("onnx", "sklearn")),
    ("setup-dev", "-m tools.export_resnet18 --weights random"): ("setup-model", ("torch", "torchvision")),
    ("setup-dev", "-m tools.compile_model digits --role R --bucket B"): ("setup-sagemaker", ("sagemaker",)),
}
DOCUMENTED = documented()
PYTHON = [command for command in DOCUMENTED if command.kind == "python"]
TOOLS = [
    f"-m tools.{file.stem}"
    for file in sorted((ROOT / "tools").glob("*.py"))
    if "__main__" in file.read_text(encoding="utf-8")
]

Ended = tuple[int, str]


def by_name(package: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def locked(setup: str) -> set[str]:
    """Names of the distributions that a set-up installs."""
    text = "".join((ROOT / lock).read_text(encoding="utf-8") for lock in LOCKS[setup])
    return {by_name(name) for name in re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?==", text, re.MULTILINE)}


def hidden(setup: str) -> list[str]:
    """Top-level modules that are installed here and would not be after the set-up."""
    names = locked(setup)
    return sorted(
        module for module, owners in packages_distributions().items() if not names & {by_name(name) for name in owners}
    )


def run_in(setup: str, lines: Sequence[str]) -> dict[tuple[str, str], Ended]:
    """Run Python command lines as after a set-up.

    Returns:
        Exit code and output of each, by set-up and line.
    """
    order = {
        "hidden": hidden(setup),
        "shared": [*SHARED, *(SHARED_BY_CHECKS if setup == "setup-dev" else ())],
        "commands": [shlex.split(line) for line in lines],
        "limit_s": LIMIT_S,
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("only_locked.py"))],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(zip([(setup, line) for line in lines], map(tuple, json.loads(ended.stdout)), strict=True))


def help_of(command: Command) -> str:
    return shlex.join([*command.leading, "--help"])


@pytest.fixture(scope="module")
def python_runs() -> dict[tuple[str, str], Ended]:
    """All that the tests look at, by set-up and command line, in one go."""
    lines: dict[str, dict[str, None]] = {setup: {} for setup in LOCKS}
    for command in PYTHON:
        lines[command.setup][help_of(command)] = None
    for setup, line in TOLD:
        lines[setup][line] = None
    lines["setup"] |= dict.fromkeys(f"{tool} --help" for tool in TOOLS)
    lines["setup"] |= dict.fromkeys(checks_of_models())
    found: dict[tuple[str, str], Ended] = {}
    with ThreadPoolExecutor(2) as pool:
        for part in pool.map(lambda setup: run_in(setup, list(lines[setup])), [each for each in LOCKS if lines[each]]):
            found |= part
    return found


@pytest.fixture(scope="module")
def cdk_helps() -> dict[str, Ended]:
    """Exit code and help of the CDK's documented commands."""
    names = sorted({command.words[0] for command in DOCUMENTED if command.kind == "cdk"})
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(name: str) -> Ended:
        ended = subprocess.run(
            [str(ROOT / "node_modules" / ".bin" / "cdk"), name, "--help"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=LIMIT_S,
        )
        return ended.returncode, ended.stdout + ended.stderr

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def checks_of_models() -> list[str]:
    """Model checks as a user has them after the plain set-up: a table, and a picture."""
    return [f"-m tools.model check {MODELS}/iris", f"-m tools.model check {MODELS}/digits"]


@pytest.mark.parametrize("command", PYTHON, ids=str)
def test_runs_after_the_set_up_that_its_page_names(command: Command, python_runs: dict[tuple[str, str], Ended]) -> None:
    code, text = python_runs[command.setup, help_of(command)]

    assert code == 0, text
    for flag in command.flags:
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), f"{flag} is no flag of it:\n{text}"


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_tells_its_usage_after_the_plain_set_up(
    tool: str, python_runs: dict[tuple[str, str], Ended]
) -> None:
    code, text = python_runs["setup", f"{tool} --help"]

    assert code == 0, text
    assert "usage" in text.lower()


@pytest.mark.parametrize(("setup", "line"), TOLD)
def test_says_what_brings_a_missing_package(setup: str, line: str, python_runs: dict[tuple[str, str], Ended]) -> None:
    target, modules = TOLD[setup, line]

    code, text = python_runs[setup, line]

    assert code == 2, text
    assert "Traceback" not in text
    assert text.startswith(f"python {' '.join(line.split()[:2])}")
    missing = re.search(r"installed, (.*) not found in ", text)
    assert missing
    assert set(modules) <= set(missing[1].split(", "))
    assert f"run make {target}" in text
    if target not in COMMON:
        assert f"then .venv{target.removeprefix('setup')}/bin/python {line.split(' digits')[0]}" in text
    owners = packages_distributions()
    brought = {by_name(owners.get(module, [module])[0]) for module in missing[1].split(", ")}
    assert brought <= locked(target)


@pytest.mark.parametrize("line", checks_of_models())
def test_a_model_is_checked_after_the_plain_set_up(line: str, python_runs: dict[tuple[str, str], Ended]) -> None:
    code, text = python_runs["setup", line]

    assert code == 0, text
    assert re.search(r"\d+ of \d+ samples right", text)


@pytest.mark.parametrize("command", [each for each in DOCUMENTED if each.kind == "make"], ids=str)
def test_is_a_target_of_make(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *settings = command.words

    assert re.search(rf"^(?:[\w.-]+ )*{re.escape(target)}(?: [\w.-]+)*:(?!=)", makefile, re.MULTILINE)
    for setting in settings:
        assert re.search(rf"^{setting.partition('=')[0]}\s*[?:]?=", makefile, re.MULTILINE), setting


@pytest.mark.parametrize("command", [each for each in DOCUMENTED if each.kind == "cdk"], ids=str)
def test_is_a_command_of_the_cdk(command: Command, cdk_helps: dict[str, Ended]) -> None:
    code, text = cdk_helps[command.words[0]]

    assert code == 0, text
    assert text.startswith(f"cdk {command.words[0]}")
    for flag in command.flags:
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", text), f"{flag} is no flag of it:\n{text}"


def test_finds_what_pages_name() -> None:
    """A collector that finds nothing would let everything pass."""
    pages = {command.page for command in DOCUMENTED}

    assert {"README.md", "docs/workloads.md", "docs/twin.md", "benchmarks/edge.md", "tools/train_iris.py"} <= pages
    assert {command.setup for command in PYTHON} >= set(COMMON)
