"""install.sh and run.sh, really run, with the wheels of the archive that devices get."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_constructs.edge_assets import inference_archive
from tests.edge.local_device import REQUEST, LocalDevice, configuration
from tests.edge.model_folder import ROOT, make_package, point
from tests.stand_in import NEEDED
from tools import wheelhouse
from tools.wheelhouse import Target

RUN = ROOT / "edge_assets" / "run.sh"
SCRIPTS = [ROOT / "edge_assets" / "runtime" / "install.sh", RUN]
RUNTIME = "edgewright.test.Runtime"


def sh(*arguments: object, limit_s: float = 120, **variables: str) -> "subprocess.CompletedProcess[str]":
    command, environment = ["/bin/sh", *map(str, arguments)], {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inference component's archive, unpacked as a device does it."""
    folder = tmp_path_factory.mktemp("component with space")
    with zipfile.ZipFile(inference_archive(folder / "archive").file) as members:
        members.extractall(folder / "inference")
    return folder / "inference"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        archive = wheelhouse.build(Target.here())
    except wheelhouse.WheelhouseError as exc:
        pytest.skip(f"the wheels are not here and cannot be fetched: {exc}")
    folder = tmp_path_factory.mktemp("artifact with space") / "runtime"
    with zipfile.ZipFile(archive) as members:
        members.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def work(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work with space") / RUNTIME
    result = sh(unpacked / "install.sh", "install", f"{folder}/", "1.0.0")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_posix_shell(script: Path) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"

    result = subprocess.run([shellcheck, "--shell=sh", script], capture_output=True, text=True, timeout=60, check=False)

    assert result.returncode == 0, result.stdout


def test_installs_what_the_component_imports_and_nothing_more(work: Path) -> None:
    python = work / "venv-1.0.0" / "bin" / "python"

    code = "import importlib.metadata as m; print(*sorted(d.metadata['Name'].lower() for d in m.distributions()))"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout.split() == ["awscrt", "awsiotsdk", "numpy", "onnxruntime", "pillow"]


def test_installs_the_agents_packages_where_the_archive_brings_them(tmp_path: Path) -> None:
    here = Target.here()
    try:
        archive = wheelhouse.build(Target(here.python, here.architecture, agent=True))
    except wheelhouse.WheelhouseError as exc:
        pytest.skip(f"the wheels are not here and cannot be fetched: {exc}")
    with zipfile.ZipFile(archive) as members:
        members.extractall(tmp_path / "runtime")

    result = sh(tmp_path / "runtime" / "install.sh", "install", tmp_path / "work", "1.0.0")

    assert result.returncode == 0, result.stderr
    python = tmp_path / "work" / "venv-1.0.0" / "bin" / "python"
    code = "import edge_inference.agent.server"
    environment = {**os.environ, "PYTHONPATH": str(RUN.parent / "inference")}
    run = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr == ""


def test_a_complete_environment_is_kept(unpacked: Path, work: Path) -> None:
    before = (work / "venv-1.0.0").stat().st_ino

    result = sh(unpacked / "install.sh", "install", work, "1.0.0")

    assert (result.returncode, (work / "venv-1.0.0").stat().st_ino) == (0, before)
    assert "complete already" in result.stdout


def test_activation_writes_the_pointer_and_keeps_the_environment_before(unpacked: Path, tmp_path: Path) -> None:
    for version in ("0.8.0", "0.9.0"):
        (tmp_path / f"venv-{version}").mkdir()
        (tmp_path / f"venv-{version}" / ".complete").touch()
    (tmp_path / "partial-0.7.0").mkdir()
    assert sh(unpacked / "install.sh", "activate", tmp_path, "0.9.0").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "venv-0.9.0"]
    (tmp_path / "venv-1.0.0").mkdir()
    (tmp_path / "venv-1.0.0" / ".complete").touch()

    result = sh(unpacked / "install.sh", "activate", tmp_path, "1.0.0")

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "current").read_text() == f"{tmp_path}/venv-1.0.0\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "venv-0.9.0", "venv-1.0.0"]


def _damage_wheel(folder: Path) -> None:
    wheel = next((folder / "wheels").glob("awsiotsdk-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"x")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "the wheel of awsiotsdk==": _damage_wheel,
    "the wheel of installer==": lambda folder: next((folder / "wheels").glob("installer-*.whl")).unlink(),
    "must hold requirements with their digests": lambda folder: (folder / "requirements.lock").write_text("numpy\n"),
    "could not be installed": lambda folder: shutil.rmtree(folder / "wheels"),
    "the wheels are for s390x": lambda folder: (folder / "target").write_text("3.11 s390x\n"),
    "which this device lacks": lambda folder: (folder / "target").write_text(
        (folder / "target").read_text().replace("3.", "3.99")
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_says_why_it_cannot_install_and_leaves_no_environment(reason: str, unpacked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runtime"
    (folder / "wheels").mkdir(parents=True)
    for file in unpacked.rglob("*"):
        if file.is_file():
            (folder / file.relative_to(unpacked)).write_bytes(file.read_bytes())
    DAMAGES[reason](folder)

    result = sh(folder / "install.sh", "install", tmp_path / "work", "1.0.0")

    assert result.returncode == 1
    assert reason in result.stderr
    assert not (tmp_path / "work" / "venv-1.0.0").exists()
    assert sh(folder / "install.sh", "activate", tmp_path / "work", "1.0.0").returncode == 1


@pytest.mark.parametrize("arguments", [(), ("install", "/x"), ("remove", "/x", "1")])
def test_refuses_a_wrong_command_line(arguments: tuple[str, ...], unpacked: Path) -> None:
    result = sh(unpacked / "install.sh", *arguments)

    assert result.returncode == 1
    assert result.stderr.startswith("runtime: ")


def test_run_refuses_a_wrong_command_line() -> None:
    result = sh(RUN, "/x", RUNTIME)

    assert (result.returncode, result.stderr[:14]) == (1, "run.sh: usage:")


def test_run_says_which_runtime_it_waited_for(tmp_path: Path) -> None:
    result = sh(RUN, f"{tmp_path}/", RUNTIME, "edge_inference", RUNTIME_WAIT_S="1")

    assert result.returncode == 1
    assert f"is {RUNTIME} deployed and healthy?" in result.stderr


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LocalDevice]:
    with LocalDevice(tmp_path / "ipc.sock", configuration()) as running:
        yield running


def test_run_starts_the_component_in_the_installed_environment_and_moves_it_to_a_new_one(
    component: Path, unpacked: Path, work: Path, device: LocalDevice, tmp_path: Path
) -> None:
    assert sh(unpacked / "install.sh", "activate", work, "1.0.0").returncode == 0
    point(work.parent / "edgewright.test.model.Digits" / "current", make_package(tmp_path / "model"))
    # Nothing of this environment: what a device gives is enough.
    process = subprocess.Popen(
        ["/bin/sh", component / "run.sh", f"{work.parent}/", RUNTIME, "edge_inference"],
        env={**NEEDED, "PATH": "/usr/bin:/bin", **device.environment()},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        answers = [_ask(device)]
        (before,) = device._topics[REQUEST]
        shutil.copytree(work / "venv-1.0.0", work / "venv-2.0.0", symlinks=True, copy_function=os.link)
        assert sh(unpacked / "install.sh", "activate", work, "2.0.0").returncode == 0
        _wait_for_command(process.pid, "venv-2.0.0")
        deadline = time.monotonic() + 30
        while before in device._topics[REQUEST]:  # which hears nothing any more
            assert time.monotonic() < deadline
            time.sleep(0.02)
        answers.append(_ask(device))
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)

    assert all("label" in answer for answer in answers), log
    assert process.returncode == 0, log


def _ask(device: LocalDevice) -> dict[str, Any]:
    device.wait_for_subscription()
    device.send({"index": 3})
    return device.answer()


def _wait_for_command(pid: int, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in Path(f"/proc/{pid}/cmdline").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
