"""Archives of what ships to devices."""

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import aws_cdk as cdk
import pytest

from config.places import ASSETS
from edge_constructs import handler_provider
from edge_constructs.edge_assets import (
    MissingAssetError,
    bare_python,
    compiler_archive,
    compiler_python,
    function_files,
    inference_archive,
    package_files,
    runtime_archive,
    shipped_code,
)
from edge_constructs.reproducible_zip import StrangerError, files_below
from edge_constructs.synth import left_out

WHEELS = b"PK\5\6" + bytes(18)  # a zip of nothing


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


def test_damaged_wheels_are_answered_with_what_mends_them(tmp_path: Path) -> None:
    made = runtime(tmp_path) / "wheelhouse" / "runtime-cp312-x86_64.zip"
    made.write_bytes(WHEELS[:-1])
    made.with_suffix(".sha256").write_text(f"{'ab' * 32}  {made.name}\n")

    with pytest.raises(MissingAssetError, match=r"damaged at .*-cp312-x86_64\.zip: delete it, then run make setup"):
        runtime_archive("3.12", "x86_64", tmp_path, made.parents[1])


@pytest.mark.parametrize("kept", ["", "of-another-device.zip"])
def test_set_up_makes_deleted_wheels_again(tmp_path: Path, kept: str) -> None:
    (tmp_path / "runtime-cp312-x86_64.sha256").write_text("digest")
    if kept:
        (tmp_path / kept).write_bytes(WHEELS)

    told = subprocess.run(
        ["make", "--dry-run", "setup", f"WHEELHOUSE={tmp_path}"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "tools.wheelhouse --all-stages" in told.stdout


def test_wheels_are_published_under_one_name_with_their_noted_digest(tmp_path: Path) -> None:
    made = runtime(tmp_path) / "wheelhouse" / "runtime-cp312-x86_64.zip"
    made.write_bytes(WHEELS)
    made.with_suffix(".sha256").write_text(f"{'ab' * 32}  {made.name}\n")

    for _ in range(2):  # a second synth finds the file of the first
        archive = runtime_archive("3.12", "x86_64", tmp_path / "out", made.parents[1])

    assert archive.sha256 == "ab" * 32
    assert archive.file.name == "runtime.zip"
    assert archive.file.read_bytes() == WHEELS


@pytest.mark.parametrize(
    ("python", "made"), [("3.11", "compiler-cp311-cp312-x86_64"), ("3.12", "runtime-cp312-x86_64")]
)
def test_the_compilers_function_has_a_python_on_amazon_linux_2023(tmp_path: Path, python: str, made: str) -> None:
    with pytest.raises(MissingAssetError, match=f"/{made}.zip: run make setup"):
        compiler_archive(python, "x86_64", tmp_path, runtime(tmp_path))
    (tmp_path / "edge_assets/runtime/wheelhouse" / f"{made}.zip").write_bytes(WHEELS)
    (tmp_path / "edge_assets/runtime/wheelhouse" / f"{made}.sha256").write_text(f"{'ab' * 32}  {made}.zip\n")

    archive = compiler_archive(python, "x86_64", tmp_path / "out", tmp_path / "edge_assets" / "runtime")

    assert archive.file.read_bytes() == WHEELS
    assert compiler_python(python) == "3.12"


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
    made.write_bytes(WHEELS)
    made.with_suffix(".sha256").write_text(f"{'ab' * 32}  {made.name}\n")

    archive = inference_archive(tmp_path / "a", agent=True)

    with zipfile.ZipFile(archive.file) as members:
        assert "edge_inference/agent/server.py" in members.namelist()
        assert not [name for name in members.namelist() if name.endswith(".proto")]
    assert runtime_archive("3.12", "x86_64", tmp_path / "out", made.parents[1], agent=True).sha256 == "ab" * 32


def test_a_change_of_code_costs_a_device_at_most_100_kb(tmp_path: Path) -> None:
    archive = inference_archive(tmp_path, agent=True)

    assert archive.file.stat().st_size <= 100_000


def without_docstrings(source: str) -> str:
    """Dump a module's statements with their lines and columns."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False)
            node.body = [each for each in node.body[doc is not None :] if not isinstance(each, ast.Pass)]
        if isinstance(node, ast.stmt):  # a body of nothing but a docstring ends where that did
            node.end_lineno = node.end_col_offset = 0
    return ast.dump(tree, include_attributes=True)


@pytest.mark.parametrize("package", ["inference/edge_component", "inference/edge_inference", "handlers/v1_handler"])
def test_what_ships_is_the_code_without_what_only_people_read(package: str) -> None:
    folder = ASSETS / package

    for name, code in shipped_code(folder).items():
        source = (folder.parent / name).read_text(encoding="utf-8")
        if name.endswith(".py"):
            assert without_docstrings(code.decode()) == without_docstrings(source), name
            assert not [line for line in code.decode().split("\n") if line.strip().startswith("#:")], name
            assert "# noqa" not in code.decode(), name


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ('"""Doc."""\nx = 1\n', "\nx = 1\n"),
        ('def f():\n    """Doc.\n\n    More.\n    """\n', "def f():\n    pass\n\n\n\n"),
        ('class C:\n    """Doc."""\n\n    x = 1\n', "class C:\n    \n\n    x = 1\n".replace("    \n", "\n")),
        ("x = '#'  # noqa: why\n    # gone\n", "x = '#'\n\n"),
        ('x = """\n# text\n   \n"""\n', 'x = """\n# text\n   \n"""\n'),
        ('x = f"""\n# {y}\n"""\n# gone\n', 'x = f"""\n# {y}\n"""\n\n'),
        ('x = b"""\n# bytes\n"""\n', 'x = b"""\n# bytes\n"""\n'),
    ],
)
def test_texts_stay_and_every_statement_keeps_its_line(source: str, bare: str) -> None:
    assert bare_python(source) == bare


def test_what_is_no_python_does_not_ship() -> None:
    with pytest.raises(SyntaxError):
        bare_python("def f(:\n")


LEFTOVERS = (
    ".DS_Store",
    "._main.py",
    ".#main.py",
    "#main.py#",
    "Thumbs.db",
    "desktop.ini",
    "main.py~",
    "main.py.orig",
    "main.py.rej",
    "main.py.BAK",
    ".main.py.swp",
    "__pycache__/main.cpython-311.pyc",
    "__MACOSX/main.py",
)


@pytest.mark.parametrize("files_of", [files_below, function_files, package_files])
def test_what_editors_and_desktops_leave_does_not_ship(
    files_of: Callable[[Path], Mapping[str, Path]], tmp_path: Path
) -> None:
    folder = tmp_path / "package"
    for name in ("main.py", "deeper/more.py", *LEFTOVERS, *(f"deeper/{name}" for name in LEFTOVERS)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")

    assert [Path(name).name for name in files_of(folder)] == ["more.py", "main.py"]


def test_what_does_not_ship_is_named(tmp_path: Path) -> None:
    for name in (
        "main.py",
        "__pycache__/main.pyc",
        ".keep",
        "d/.DS_Store",
        "Icon\r",
        "more.py~",
        *map("{}.bak".format, range(4)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    folder = tmp_path.name

    assert left_out(tmp_path) == (
        f"synth: left out of {folder}, for they are no part of it: 0.bak, 1.bak, 2.bak, 3.bak, Icon\\r and 2 more\n"
    )
    assert left_out(tmp_path / "__pycache__") == ""


def test_leftovers_are_no_part_of_the_functions_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_provider, "SOURCE_ROOT", tmp_path)
    (tmp_path / "edge_handlers").mkdir()
    (tmp_path / "edge_handlers" / "main.py").write_text("x")

    def digest() -> str:
        cdk.AssetStaging.clear_asset_hash_cache()
        stack = cdk.Stack(cdk.App(outdir=str(tmp_path / "out")))
        location = handler_provider.handler_code().bind(stack).s3_location
        assert location
        return location.object_key

    clean = digest()
    for name in LEFTOVERS:
        (tmp_path / "edge_handlers" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "edge_handlers" / name).write_text("x")
    assert digest() == clean
    (tmp_path / "edge_handlers" / "main.py").write_text("y")
    assert digest() != clean


def test_a_stranger_in_a_package_for_devices_is_named(tmp_path: Path) -> None:
    for name in ("main.py", "notes.txt", "keys/private.pem"):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text("x")

    with pytest.raises(
        StrangerError, match=r"must hold \.py and \.proto files, got keys/private\.pem, notes\.txt: take"
    ):
        package_files(tmp_path / "package")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("{outside}/secret", "data is a link that leads out of f, to .*secret: copy the file"),
        ("{outside}", "data is a link that leads out of f"),
        ("../f-other/secret", "data is a link that leads out of f"),
        ("nowhere", "data is a link that leads nowhere"),
        ("data", "data is a link that leads nowhere"),
        ("deeper", "data is a link to a folder, whose files would not travel"),
    ],
)
@pytest.mark.parametrize("files_of", [files_below, function_files])
def test_a_link_that_cannot_travel_is_named(
    files_of: Callable[[Path], Mapping[str, Path]], target: str, told: str, tmp_path: Path
) -> None:
    outside, folder = tmp_path / "f-other", tmp_path / "f"
    for path in (outside / "secret", folder / "main.py", folder / "deeper" / "more.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder / "data").symlink_to(target.format(outside=outside))

    with pytest.raises(StrangerError, match=told):
        files_of(folder)


def test_a_link_within_the_folder_travels_as_the_file(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("x")
    (tmp_path / "other.py").symlink_to("main.py")

    assert sorted(files_below(tmp_path)) == ["main.py", "other.py"]


def test_a_name_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc\xdfe.txt")).write_text("x")

    with pytest.raises(StrangerError, match=r"name must be UTF-8, got b'gr\\xfc\\xdfe\.txt': rename it"):
        files_below(tmp_path)
