import zipfile
from pathlib import Path

import pytest

from edge_constructs.reproducible_zip import files_below, sha256_of, write_zip
from tests.edge.model_folder import ROOT
from tools import wheelhouse
from tools.wheelhouse import RUNTIME, Target, WheelhouseError, locked_wheels, read_lock, read_locks


def test_the_devices_lock_pins_what_the_repository_pins() -> None:
    pinned = read_locks([ROOT / "requirements-twin.txt", ROOT / "requirements-dev.txt"])

    for name, pin in read_locks([RUNTIME / "requirements.lock", RUNTIME / "agent.lock"]).items():
        assert pin == pinned[name], name


def test_no_package_comes_to_the_device_that_the_component_does_not_need() -> None:
    names = set(read_lock(RUNTIME / "requirements.lock"))

    assert names == {"awscrt", "awsiotsdk", "numpy", "onnxruntime", "pillow"}
    assert set(read_lock(RUNTIME / "agent.lock")) == {"grpcio", "protobuf", "typing-extensions"}
    assert set(read_lock(RUNTIME / "installer.lock")) == {"installer"}


@pytest.mark.parametrize(
    ("python", "architecture", "reason"),
    [("2.7", "x86_64", "such as 3.11, got '2.7'"), ("311", "x86_64", "got '311'"), ("3.11", "arm64", "got 'arm64'")],
)
def test_names_a_target_that_does_not_exist(python: str, architecture: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Target(python, architecture)


def test_the_command_line_reports_a_wrong_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert wheelhouse.main(["--arch", "sparc"]) == 1
    assert "arch must be one of x86_64, aarch64, got 'sparc'" in capsys.readouterr().err


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A runtime folder without its archive, whose one wheel is downloaded already."""
    wheels = tmp_path / "wheelhouse" / "wheels-cp311-x86_64"
    wheels.mkdir(parents=True)
    (wheels / "some_thing-1.0-py3-none-any.whl").write_bytes(b"wheel")
    digest = sha256_of(wheels / "some_thing-1.0-py3-none-any.whl")
    for name in ("requirements.lock", "installer.lock"):
        (tmp_path / name).write_text(f"Some.Thing==1.0 \\\n    --hash=sha256:{digest}\n")
    for name in wheelhouse.SCRIPTS:
        (tmp_path / name).write_text("exit 0\n")
    return tmp_path


TARGET = Target("3.11", "x86_64")


def test_builds_once_and_again_when_a_source_or_the_archive_changes(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[Target] = []
    monkeypatch.setattr(wheelhouse, "download", lambda target, *_: downloads.append(target))
    archive = wheelhouse.build(TARGET, runtime)
    digest = sha256_of(archive)
    assert archive.with_suffix(".sha256").read_text() == f"{digest}  {archive.name}\n"
    assert zipfile.ZipFile(archive).namelist() == [
        "install.sh",
        "install_wheels.py",
        "installer.lock",
        "requirements.lock",
        "target",
        "wheels/some_thing-1.0-py3-none-any.whl",
    ]

    wheelhouse.build(TARGET, runtime)
    assert len(downloads) == 1
    archive.write_bytes(archive.read_bytes()[:-1])
    wheelhouse.build(TARGET, runtime)
    assert (len(downloads), sha256_of(archive)) == (2, digest)
    (runtime / "install.sh").write_text("exit 1\n")
    wheelhouse.build(TARGET, runtime)

    assert len(downloads) == 3
    assert sha256_of(archive) != digest


@pytest.fixture
def compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder in which the compiler's packages are downloaded for Python 3.11 and 3.12."""
    pins: dict[str, list[str]] = {}
    for tag in ("cp311", "cp312"):
        folder = tmp_path / "wheelhouse" / f"wheels-{tag}-x86_64"
        folder.mkdir(parents=True)
        for name in wheelhouse.COMPILER_PACKAGES:
            file = folder / f"{name}-1.0-{tag}-{tag}-manylinux_2_28_x86_64.whl"
            file.write_bytes(f"{name} {tag}".encode())
            pins.setdefault(name, []).append(sha256_of(file))
    lock = "".join(
        f"{name}==1.0" + "".join(f" --hash=sha256:{each}" for each in digests) + "\n" for name, digests in pins.items()
    )
    (tmp_path / "requirements.lock").write_text(f"pillow==1.0 --hash=sha256:{'0' * 64}\n{lock}")
    monkeypatch.setattr(wheelhouse, "download", lambda *_: None)
    return tmp_path


def test_the_compilers_archive_has_the_devices_versions_for_both_pythons(compiling: Path) -> None:
    archive = wheelhouse.build_compiler(TARGET, compiling)

    assert archive.name == "compiler-cp311-cp312-x86_64.zip"
    wheels = [name.split("-") for name in zipfile.ZipFile(archive).namelist() if name.endswith(".whl")]
    assert [(name.removeprefix("wheels/"), tag) for name, _, tag, *_ in wheels] == [
        ("numpy", "cp311"),
        ("numpy", "cp312"),
        ("onnxruntime", "cp311"),
        ("onnxruntime", "cp312"),
    ]
    made = archive.stat().st_mtime_ns
    assert wheelhouse.build_compiler(TARGET, compiling).stat().st_mtime_ns == made


def test_a_python_whose_wheels_are_missing_for_the_compiler_is_named(compiling: Path) -> None:
    for file in (compiling / "wheelhouse" / "wheels-cp312-x86_64").glob("numpy-*"):
        file.unlink()

    with pytest.raises(WheelhouseError, match="got none for numpy"):
        wheelhouse.build_compiler(TARGET, compiling)


def test_a_wheel_with_another_hash_is_named(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheelhouse, "download", lambda *_: None)
    next((runtime / "wheelhouse" / "wheels-cp311-x86_64").glob("*.whl")).write_bytes(b"other")

    with pytest.raises(WheelhouseError, match="got none for some-thing"):
        wheelhouse.build(TARGET, runtime)
    assert not wheelhouse.archive_path(TARGET, runtime).exists()


def test_a_download_that_fails_says_why(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime / "requirements.lock").write_text("no-such-thing==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(WheelhouseError, match="no-such-thing"):
        wheelhouse.build(TARGET, runtime)


def test_a_lock_without_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.lock").write_text("numpy==1.0\n")

    with pytest.raises(ValueError, match=r"must pin a version by == and have a hash, got .numpy==1.0"):
        read_lock(tmp_path / "x.lock")
    with pytest.raises(ValueError, match=r"got none for awscrt, .*numpy"):
        locked_wheels(tmp_path, read_lock(RUNTIME / "requirements.lock"))


def test_the_same_files_give_the_same_archive_whatever_their_times_and_modes(tmp_path: Path) -> None:
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        (folder / "sub" / "__pycache__").mkdir(parents=True)
        (folder / "sub" / "x.py").write_text("x = 1\n")
        (folder / "sub" / "__pycache__" / "x.pyc").write_bytes(bytes([number]))
        (folder / ".hidden").write_text(str(number))
        (folder / "run.sh").write_text("exit 0\n")
        (folder / "run.sh").chmod(0o600 + number * 0o111)

    digests = {write_zip(tmp_path / f"{name}.zip", files_below(tmp_path / name)) for name in ("a", "b")}

    assert len(digests) == 1
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["run.sh", "sub/x.py"]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("sub/x.py") == b"x = 1\n"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a//b", "a/../b"])
def test_an_archive_holds_no_path_that_leads_out_of_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="relative, plain and inside"):
        write_zip(tmp_path / "x.zip", {name: b""})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_archive_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_zip(tmp_path / "out" / "x.zip", {"a": tmp_path / "missing"})
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match="at least one file"):
        files_below(tmp_path / "out")
