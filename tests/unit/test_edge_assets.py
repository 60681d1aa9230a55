"""Archives of what ships to devices."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_constructs.edge_assets import MissingAssetError, inference_archive, runtime_archive


def runtime(parent: Path) -> Path:
    folder = parent / "edge_assets" / "runtime"
    (folder / "wheelhouse").mkdir(parents=True)
    return folder


def test_missing_wheels_are_answered_with_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(MissingAssetError) as caught:
        runtime_archive("3.11", "aarch64", tmp_path, runtime(tmp_path))

    assert str(caught.value) == (
        "the wheels for Python 3.11 on aarch64 are missing at "
        "edge_assets/runtime/wheelhouse/runtime-cp311-aarch64.zip: run make setup"
    )


def test_wheels_are_published_under_one_name_with_their_noted_digest(tmp_path: Path) -> None:
    made = runtime(tmp_path) / "wheelhouse" / "runtime-cp312-x86_64.zip"
    made.write_bytes(b"wheels")
    made.with_suffix(".sha256").write_text(f"{'ab' * 32}  {made.name}\n")

    for _ in range(2):  # a second synth finds the file of the first
        archive = runtime_archive("3.12", "x86_64", tmp_path / "out", made.parents[1])

    assert archive.sha256 == "ab" * 32
    assert archive.file.name == "runtime.zip"
    assert archive.file.read_bytes() == b"wheels"


def test_inference_archive_holds_package_and_start_script_and_is_reproducible(tmp_path: Path) -> None:
    first = inference_archive(tmp_path / "a")
    second = inference_archive(tmp_path / "b")

    assert first.sha256 == second.sha256
    with zipfile.ZipFile(first.file) as archive:
        names = archive.namelist()
    assert "run.sh" in names
    assert "edge_inference/__init__.py" in names
    assert not [name for name in names if "__pycache__" in name]


def test_a_device_without_the_agent_neither_ships_nor_imports_it(tmp_path: Path) -> None:
    archive = inference_archive(tmp_path / "a")
    with zipfile.ZipFile(archive.file) as members:
        assert not [name for name in members.namelist() if name.startswith("edge_inference/agent/")]
        members.extractall(tmp_path / "device")
    code = "import sys, edge_inference.__main__; print(sorted({'grpc', 'google'} & set(sys.modules)))"

    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "device", capture_output=True, text=True, timeout=60, check=False
    )

    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_a_device_with_the_agent_gets_its_code_and_its_wheels(tmp_path: Path) -> None:
    made = runtime(tmp_path) / "wheelhouse" / "runtime-cp312-x86_64-agent.zip"
    made.write_bytes(b"wheels")
    made.with_suffix(".sha256").write_text(f"{'ab' * 32}  {made.name}\n")

    archive = inference_archive(tmp_path / "a", agent=True)

    with zipfile.ZipFile(archive.file) as members:
        assert {"edge_inference/agent/server.py", "edge_inference/agent/agent.proto"} <= set(members.namelist())
    assert runtime_archive("3.12", "x86_64", tmp_path / "out", made.parents[1], agent=True).sha256 == "ab" * 32
