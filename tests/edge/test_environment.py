import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_inference.environment import EnvironmentPointer
from tests.edge.model_folder import ROOT, point


def make_environment(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return make_environment(tmp_path / "venv-1")


def test_is_current_without_a_pointer_and_with_its_own(tmp_path: Path, old: Path) -> None:
    pointer = tmp_path / "current"
    assert not EnvironmentPointer(None, old).is_outdated()
    assert not EnvironmentPointer(pointer, old).is_outdated()

    point(pointer, old)

    assert not EnvironmentPointer(pointer, old).is_outdated()


def test_is_outdated_once_the_pointer_names_another_complete_environment(tmp_path: Path, old: Path) -> None:
    pointer = tmp_path / "current"
    point(pointer, tmp_path / "venv-2")
    assert not EnvironmentPointer(pointer, old).is_outdated()

    make_environment(tmp_path / "venv-2")

    assert EnvironmentPointer(pointer, old).is_outdated()
    assert EnvironmentPointer(pointer, tmp_path / "gone").is_outdated()


def test_restarts_the_same_command_in_the_new_environment(tmp_path: Path) -> None:
    new = make_environment(tmp_path / "venv-2")
    point(tmp_path / "current", new)
    code = (
        "import sys; from pathlib import Path; from edge_inference.environment import EnvironmentPointer\n"
        "print(sys.argv[1:], sys.executable, flush=True)\n"
        f"if sys.executable != {str(new / 'bin' / 'python')!r}: EnvironmentPointer(Path(sys.argv[1])).restart()\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "current")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "edge_assets" / "inference")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    first, second = result.stdout.splitlines()
    assert first.split("] ")[0] == second.split("] ")[0]
    assert second.endswith(f"{new}/bin/python")
