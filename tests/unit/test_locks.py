"""The locks are complete: no installer has anything left to ask an index for. Without a network."""

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.unmet_requirements import unmet
from tools import locks
from tools.locks import MACHINES, METADATA, PYTHONS, all_locks
from tools.set_up import ENVIRONMENTS
from tools.wheelhouse import read_pins

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "edge_assets" / "runtime"
HASH = "--hash=sha256:" + "0123456789ab" + "0" * 52
#: Devices are Linux machines; what only onnxruntime's tools and awsiotsdk's examples need stays at home.
_TOOLS = frozenset({"flatbuffers", "packaging", "protobuf", "sympy", "coloredlogs"})
#: A build of its own stands in another's place, beside numpy.
LEFT_OUT = {"onnxruntime": _TOOLS, **dict.fromkeys(("onnxruntime-openvino", "onnxruntime-gpu"), _TOOLS | {"numpy"})}
TOGETHER = {
    **{name: [ROOT / lock for lock in environment.locks] for name, environment in ENVIRONMENTS.items()},
    "installer": [ROOT / "requirements-installer.txt"],
    "device": [RUNTIME / "requirements.lock", RUNTIME / "installer.lock"],
    "device by openvino": [RUNTIME / "openvino.lock", RUNTIME / "installer.lock"],
    "device by cuda": [RUNTIME / "cuda.lock", RUNTIME / "installer.lock"],
    "device with agent": [RUNTIME / "requirements.lock", RUNTIME / "agent.lock", RUNTIME / "installer.lock"],
}


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    content = json.loads((ROOT / METADATA).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("name", "machine"),
    [(name, each) for name in TOGETHER for each in MACHINES if each.system == "Linux" or not name.startswith("device")],
    ids=str,
)
def test_every_requirement_of_every_locked_package_is_met_inside_the_locks(
    metadata: dict[str, Any], name: str, machine: Any
) -> None:
    left_out = LEFT_OUT if name.startswith("device") else {}
    assert list(unmet(TOGETHER[name], metadata, machine, left_out)) == []


def test_the_metadata_is_of_the_locked_packages_and_no_others(metadata: dict[str, Any]) -> None:
    locked = {f"{pin.name}=={pin.version}" for lock in all_locks(ROOT) for pin in read_pins(lock)}

    assert set(metadata) == locked


def test_every_lock_is_installed_by_something_that_is_checked_here() -> None:
    assert {lock for locks in TOGETHER.values() for lock in locks} == set(all_locks(ROOT))
    assert set(ROOT.glob("requirements*.txt")) <= set(all_locks(ROOT))


def lock(folder: Path, *lines: str) -> list[Path]:
    file = folder / f"requirements-{len(list(folder.iterdir()))}.txt"
    file.write_text("\n".join(f"{line} {HASH}" for line in lines) + "\n")
    return [file]


def facts(
    *requires: str, python: str = ">=3.8", tag: str = "py3-none-any", digest: str = "0123456789ab"
) -> dict[str, Any]:
    return {"python": python, "requires": list(requires), "wheels": {tag: digest}, "sdist": False}


COVERAGE = {"pytest-cov==7.1.0": facts("coverage[toml]>=7.10.6"), "coverage==7.17.3": facts()}


def test_an_extra_that_the_lock_dropped_is_found(tmp_path: Path) -> None:
    dropped = lock(tmp_path, "pytest-cov==7.1.0", "coverage==7.17.3")

    (fault,) = unmet(dropped, COVERAGE, MACHINES[0])

    assert fault == (
        "pytest-cov==7.1.0: CPython 3.11 on Linux x86_64 needs 'coverage[toml]>=7.10.6', "
        "the lock pins coverage without [toml]: lock with --no-strip-extras"
    )
    assert list(unmet(lock(tmp_path, "pytest-cov==7.1.0", "coverage[toml]==7.17.3"), COVERAGE, MACHINES[0])) == []


@pytest.mark.parametrize(
    ("lines", "known", "says"),
    [
        (["a==1"], {"a==1": facts("b>=2")}, "needs 'b>=2', which no lock pins"),
        (["a==1", "b==1"], {"a==1": facts("b>=2"), "b==1": facts()}, "needs 'b>=2', the lock pins 1"),
        (["a[x]==1"], {"a==1": facts("b; extra == 'x'")}, "needs \"b; extra == 'x'\", which no lock pins"),
        (["a==1"], {"a==1": facts("b; python_version < '3.12'")}, "which no lock pins"),
        (["a==1", "b==1; sys_platform == 'darwin'"], {"a==1": facts("b"), "b==1": facts()}, "'b', which no lock pins"),
        (
            ["a==1"],
            {"a==1": facts(python=">=3.12")},
            "must install with CPython 3.11 on Linux x86_64, asks for Python >=3",
        ),
        (["a==1"], {"a==1": facts(tag="cp312-cp312-manylinux_2_28_x86_64")}, "must have a file for CPython 3.11"),
        (["a==1"], {"a==1": facts(tag="cp311-cp311-manylinux_2_39_x86_64")}, "must have a file for CPython 3.11"),
        (["a==1"], {"a==1": facts(digest="ffffffffffff")}, "must have its hash in the lock, not so ffffffffffff"),
        (["a==1"], {}, "requirements-metadata.json must say what it asks for: run make lock"),
    ],
)
def test_a_hole_in_a_lock_is_found(tmp_path: Path, lines: list[str], known: dict[str, Any], says: str) -> None:
    (fault,) = unmet(lock(tmp_path, *lines), known, MACHINES[0])

    assert says in fault


def test_what_another_machine_needs_is_no_hole_here(tmp_path: Path) -> None:
    known = {"a==1": facts("b; sys_platform == 'win32'", "c; extra == 'x'", "d; python_version < '3.11'")}

    assert list(unmet(lock(tmp_path, "a==1"), known, MACHINES[0])) == []


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a==1", "must pin a version by == and have a hash, got 'a==1'"),
        (f"a>=1 {HASH}", "must pin a version by == and have a hash, got 'a>=1'"),
        ("a==1 --hash=md5:00", "a hash of a must be sha256:<64 hex digits>, got 'md5:00'"),
        (f"./wheel.whl {HASH}", "a line must be a requirement with hashes, got './wheel.whl"),
    ],
)
def test_a_lock_line_that_leaves_anything_open_is_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "x.lock").write_text(line + "\n")

    with pytest.raises(ValueError, match=r"x\.lock: ") as refused:
        read_pins(tmp_path / "x.lock")

    assert says in str(refused.value)


def test_every_node_package_has_its_digest() -> None:
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]

    assert [
        name for name, each in packages.items() if name and not each.get("integrity", "").startswith("sha512-")
    ] == []
    assert len(packages) > 20


def test_the_supported_interpreters_are_named_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    listed = f"{', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}"
    assert project["requires-python"] == ">=3.11,<3.15"
    assert f"CPython {listed} is needed" in makefile
    assert "(3, 11) <= v <= (3, 14)" in makefile
    assert f"CPython {listed}" in readme


def test_a_lock_that_takes_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(command: list[str], **_arguments: Any) -> Any:
        raise subprocess.TimeoutExpired(command, locks.LIMIT_S)

    monkeypatch.setattr(locks.subprocess, "run", too_long)  # type: ignore[attr-defined]

    with pytest.raises(locks.LockError, match=rf"uv pip compile a\.in: must end within {locks.LIMIT_S} s, it did not"):
        locks._uv(tmp_path, "pip", "compile", "a.in", "-o", "a.txt")
