"""The bundler, on wheels made here; `pip download` itself is covered by the wheelhouse."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from edge_constructs.reproducible_zip import sha256_of
from tools import bundle, bundle_trim
from tools.bundle import BundleError, BundleTooLargeError, build, check_size, largest_parts, unpack
from tools.bundle_trim import announced, find_interpreter, loadable, strip, trim
from tools.wheelhouse import Target

TARGET = Target.here()
FILES = {
    "pkg/__init__.py": b"VALUE = 42\n",
    "pkg/core/big.py": b"#" * 5000,
    "pkg/tests/test_it.py": b"assert False\n",
    "pkg/include/it.h": b"int x;\n",
    "pkg/it.pyx": b"x\n",
    "pkg/it.pyi": b"x: int\n",
    "pkg/docs/it.rst": b"text\n",
    "pkg-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n",
    "pkg-1.0.dist-info/RECORD": b"",
    "pkg-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n",
    "pkg-1.0.dist-info/licenses/LICENSE": b"free\n",
    "pkg-1.0.data/purelib/more.py": b"MORE = 1\n",
    "pkg-1.0.data/scripts/run": b"#!python\n",
    "docs.py": b"a module of that name stays\n",
}


def make_wheel(folder: Path, files: dict[str, bytes], name: str = "pkg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return wheel


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A function whose one wheel is there already."""
    folder = tmp_path / "fn"
    folder.mkdir()
    wheel = make_wheel(tmp_path / "registry", FILES)
    (folder / "requirements.lock").write_text(f"pkg==1.0 \\\n    --hash=sha256:{sha256_of(wheel)}\n")

    def download(target: Target, locks: Iterable[Path], wheels: Path) -> None:
        wheels.mkdir(parents=True, exist_ok=True)
        for each in (tmp_path / "registry").iterdir():
            shutil.copy(each, wheels)

    monkeypatch.setattr(bundle, "download", download)
    return folder


def test_bundles_what_an_import_needs_and_says_what_was_cut(function: Path, tmp_path: Path) -> None:
    archive, report = build(function, TARGET, tmp_path / "bundles")

    assert report is not None
    with zipfile.ZipFile(archive) as members:
        names = set(members.namelist())
        members.extractall(tmp_path / "device")
    assert names == {
        "requirements.lock",
        "dependencies/docs.py",
        "dependencies/more.py",
        "dependencies/pkg/__init__.py",
        "dependencies/pkg/core/big.py",
        "dependencies/pkg-1.0.dist-info/METADATA",
        "dependencies/pkg-1.0.dist-info/RECORD",
        "dependencies/pkg-1.0.dist-info/licenses/LICENSE",
    }
    assert {cut.rule: cut.files for cut in report.cuts} == {
        "tests": 1,
        "headers and static libraries": 1,
        "sources of extensions": 1,
        "type stubs": 1,
        "documentation and examples": 1,
        "installers' files": 1,
    }
    assert report.before_bytes - report.after_bytes == sum(cut.size_bytes for cut in report.cuts)
    assert report.largest[0] == ("pkg/core", 5000)
    assert "- tests" in report.text()
    assert json.loads(archive.with_suffix(".json").read_text())["after_bytes"] == report.after_bytes
    code = "import importlib.metadata as m, pkg, more; print(pkg.VALUE, m.version('pkg'))"
    folder = tmp_path / "device" / "dependencies"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["42", "1.0"], run.stderr


def test_is_reproducible_and_done_once(function: Path, tmp_path: Path) -> None:
    first, _ = build(function, TARGET, tmp_path / "a")
    second, _ = build(function, TARGET, tmp_path / "b")

    assert sha256_of(first) == sha256_of(second)
    assert build(function, TARGET, tmp_path / "a") == (first, None)
    (function / "requirements.lock").write_text("# more\n" + (function / "requirements.lock").read_text())
    assert build(function, TARGET, tmp_path / "a")[1] is not None


def test_the_folder_that_one_is_in_has_its_name(
    function: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(function)
    monkeypatch.chdir(function)

    archives = [build(Path(named), TARGET, tmp_path / "bundles")[0].name for named in (".", "../link")]

    assert archives == [f"fn-{TARGET.name}.zip", f"link-{TARGET.name}.zip"]


def test_a_rule_can_be_left_out(function: Path, tmp_path: Path) -> None:
    archive, _ = build(function, TARGET, tmp_path / "bundles", frozenset({"tests"}))

    with zipfile.ZipFile(archive) as members:
        assert "dependencies/pkg/tests/test_it.py" in members.namelist()


def test_what_the_rest_imports_is_not_cut_whatever_its_name(tmp_path: Path) -> None:
    files = {
        "boto/__init__.py": "import boto.waiter\n",
        "boto/waiter.py": "from boto.docs.text import shape\n",
        "boto/docs/__init__.py": "",
        "boto/docs/text.py": "from ..examples import bundled\n",
        "boto/docs/style.css": "",
        "boto/docs/more/page.txt": "",
        "boto/examples/__init__.py": "",
        "astro/__init__.py": "try:\n    from .tests.runner import run\nexcept ImportError: pass\n",
        "astro/tests/__init__.py": "",
        "astro/tests/runner.py": "",
        "astro/tests/header.h": "",
        "lazy/__init__.py": "def test():\n    from lazy.tests import all\n",
        "lazy/tests/__init__.py": "",
        "lazy/docs/page.rst": "",
        "lazy/template.py": "{{ no python }}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    cuts = trim(tmp_path)

    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(files) - left == {"lazy/tests/__init__.py", "lazy/docs/page.rst", "astro/tests/header.h"}
    assert {cut.rule: cut.files for cut in cuts} == {"tests": 2, "documentation and examples": 1}


def bundled(function: Path, files: dict[str, bytes], tmp_path: Path) -> tuple[set[str], list[str], list[str]]:
    """Bundle one wheel: the archive's members, the notes, and the rules that took something."""
    wheel = make_wheel(tmp_path / "registry", {**META, **files})
    (function / "requirements.lock").write_text(f"pkg==1.0 --hash=sha256:{sha256_of(wheel)}\n")
    archive, report = build(function, TARGET, tmp_path / "bundles")
    assert report is not None
    with zipfile.ZipFile(archive) as members:
        names = {name.removeprefix("dependencies/") for name in members.namelist()}
    return names, list(report.notes), [cut.rule for cut in report.cuts]


META = {"pkg-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n"}
READS = b"import pathlib\nfolder = pathlib.Path(__file__).parent\n"


def test_stubs_that_are_read_at_run_time_stay(function: Path, tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": b"import pkg.sub, pkg.own\n",
        "pkg/sub/__init__.py": b"import lazy_loader\n__getattr__ = lazy_loader.attach_stub(__name__, __file__)\n",
        "pkg/sub/__init__.pyi": b"from .x import y\n",
        "lazy_loader/__init__.py": b"def attach_stub(name, file): open(file[: file.rindex('.')] + '.pyi')\n",
        "pkg/own.py": b"open(__file__.replace('.py', '.pyi'))\n",
        "pkg/own.pyi": b"x: int\n",
        "pkg/typed.py": b"x = 1\n",
        "pkg/typed.pyi": b"x: int\n",
        "pkg/py.typed": b"",
    }

    names, notes, _ = bundled(function, files, tmp_path)

    assert set(files) - names == {"pkg/typed.pyi", "pkg/py.typed"}
    assert notes == ["2 modules import as before"]


def test_data_that_the_code_names_stays_whatever_its_kind_or_folder(function: Path, tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": b"import pkgutil\ndef load(): return pkgutil.get_data('pkg', 'examples/a/first.json')\n",
        "pkg/examples/a/first.json": b"{}",
        "pkg/examples/a/second.json": b"{}",
        "cffi/__init__.py": b"def source():\n    return open('_cffi_include.h')\n",
        "cffi/_cffi_include.h": b"",
        "cffi/other.h": b"",
        "compiler/__init__.py": b"TEMPLATE = 'Buffer.c'\n",
        "compiler/Utility/Buffer.c": b"",
        "compiler/Utility/Other.c": b"",
        "compiler/tests/__init__.py": b"",
        "compiler/tests/test_x.py": b"open('Other.c')\n",
    }

    names, notes, _ = bundled(function, files, tmp_path)

    assert {"pkg/examples/a/first.json", "cffi/_cffi_include.h", "compiler/Utility/Buffer.c"} <= names
    assert not {"pkg/examples/a/second.json", "cffi/other.h", "compiler/Utility/Other.c"} & names
    assert notes == ["3 modules import as before"]


def test_what_importlib_metadata_tells_is_the_same_after_trimming(function: Path, tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": b"",
        "pkg-1.0.dist-info/entry_points.txt": b"[pkg.plugins]\ntable = pkg:table\n",
        "pkg-1.0.dist-info/top_level.txt": b"pkg\n",
        "pkg-1.0.dist-info/RECORD": b"pkg/__init__.py,,\n",
        "pkg-1.0.dist-info/INSTALLER": b"pip\n",
    }

    names, _, _ = bundled(function, files, tmp_path)

    assert set(files) - names == {"pkg-1.0.dist-info/INSTALLER"}
    with zipfile.ZipFile(tmp_path / "bundles" / f"fn-{TARGET.name}.zip") as members:
        members.extractall(tmp_path / "device")
    ((name, (version, entries)),) = announced(tmp_path / "device" / "dependencies").items()
    assert (name, version) == ("pkg", "1.0")
    assert "pkg:table" in entries[0]


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("tests/data.json", "tests"),
        ("docs/schema.json", "documentation and examples"),
        ("kernel.c", "sources of extensions"),
        ("defs.h", "headers and static libraries"),
        ("shipped.pyi", "type stubs"),
    ],
)
def test_a_rule_that_breaks_an_import_is_left_out(path: str, rule: str, function: Path, tmp_path: Path) -> None:
    files = {
        # Put together as it runs: a name that stands in the code is kept at once.
        "pkg/__init__.py": READS + f"(folder / 'in' / ({path[:-2]!r} + {path[-2:]!r})).read_text()\n".encode(),
        f"pkg/in/{path}": b"{}",
        "other/__init__.py": b"",
        "other/sub/tests/t.py": b"",
        "other/sub/docs/t.rst": b"",
        "other/sub/x.c": b"",
    }

    names, notes, rules = bundled(function, files, tmp_path)

    assert f"pkg/in/{path}" in names
    assert f"left out {rule}: pkg would break (FileNotFoundError" in notes[0]
    assert rules == [each for each in ("tests", "sources of extensions", "documentation and examples") if each != rule]


def test_two_rules_that_break_imports_are_left_out_with_all(function: Path, tmp_path: Path) -> None:
    files = {
        "pkg/__init__.py": READS + b"(folder / ('a.' + 'h')).read_text()\n",
        "pkg/a.h": b"",
        "more/__init__.py": READS + b"(folder / 'tests' / 'a').read_text()\n",
        "more/tests/a": b"",
    }

    names, notes, rules = bundled(function, files, tmp_path)

    assert set(files) <= names
    assert "left out every rule" in notes[0]
    assert rules == []


def test_a_module_that_never_imported_here_proves_nothing(function: Path, tmp_path: Path) -> None:
    files = {"pkg/__init__.py": b"import numpy\n", "google/cloud/thing/__init__.py": b"", "one.py": b"", "docs.py": b""}

    _, notes, _ = bundled(function, files, tmp_path)

    assert notes == ["3 modules import as before"]


def test_without_such_a_python_the_report_says_that_nothing_was_imported(function: Path, tmp_path: Path) -> None:
    _, report = build(function, Target("3.99", TARGET.architecture), tmp_path / "bundles")

    assert report is not None
    assert report.notes[-1] == f"not imported after trimming: no Python 3.99 for {TARGET.architecture} on this machine"


def test_hidden_folders_of_a_wheel_travel(function: Path, tmp_path: Path) -> None:
    names, _, _ = bundled(function, {"pkg/__init__.py": b"", "pkg/.libs/libx.so.1": b"x"}, tmp_path)

    assert "pkg/.libs/libx.so.1" in names


def test_what_older_rules_trimmed_is_bundled_anew(function: Path, tmp_path: Path) -> None:
    archive, _ = build(function, TARGET, tmp_path / "bundles")
    assert build(function, TARGET, tmp_path / "bundles")[1] is None
    report = json.loads(archive.with_suffix(".json").read_text())

    archive.with_suffix(".json").write_text(json.dumps({**report, "form": 1}))

    assert build(function, TARGET, tmp_path / "bundles")[1] is not None


def test_a_package_without_a_wheel_is_told_with_how_to_build_one(tmp_path: Path) -> None:
    function, wheels = tmp_path / "fn", tmp_path / "wheels"
    function.mkdir()
    make_wheel(wheels, {**META, "pkg/__init__.py": b""}).rename(wheels / "pkg-2.0-py3-none-any.whl")
    lock = function / "requirements.lock"
    head = "--no-index\n--find-links ../wheels\n"
    for name, there in (("source-only", "none at all"), ("pkg", "only for 2.0")):
        lock.write_text(f"{head}{name}==1.0 --hash=sha256:{'0' * 64}\n")

        with pytest.raises(BundleError) as caught:
            build(function, TARGET, tmp_path / "bundles")

        assert f"fn: {name}==1.0 has no wheel for Python {TARGET.python} on {TARGET.architecture} ({there})" in str(
            caught.value
        )
        assert f"`pip wheel --no-deps --wheel-dir WHEELS {name}==1.0`" in str(caught.value)


@pytest.mark.parametrize(
    ("required", "told"),
    [
        (">=3.99", "pkg is not for Python {python} (it wants >=3.99): pin a release"),
        ("", "see whether the index has"),
    ],
)
def test_a_package_for_another_python_or_of_another_name_is_told_apart(
    tmp_path: Path, required: str, told: str
) -> None:
    function, wheels = tmp_path / "fn", tmp_path / "wheels"
    function.mkdir()
    more = f"Requires-Python: {required}\n".encode() if required else b""
    name = "pkg" if required else "pgk"
    told_of = "pkg-1.0.dist-info/"
    meta = {f"{told_of}METADATA": META[f"{told_of}METADATA"] + more, f"{told_of}WHEEL": b"Wheel-Version: 1.0\n"}
    wheel = make_wheel(wheels, {**meta, "pkg/__init__.py": b""}).rename(wheels / "pkg-1.0-py3-none-any.whl")
    (function / "requirements.lock").write_text(
        f"--no-index\n--find-links ../wheels\n{name}==1.0 --hash=sha256:{sha256_of(wheel)}\n"
    )

    with pytest.raises(BundleError, match=re.escape(told.format(python=TARGET.python))):
        build(function, TARGET, tmp_path / "bundles")


def test_a_wheel_that_was_built_on_a_device_is_taken_from_beside_the_lock(tmp_path: Path) -> None:
    function, wheels = tmp_path / "fn", tmp_path / "wheels"
    function.mkdir()
    tag = f"{TARGET.name.partition('-')[0]}-{TARGET.name.partition('-')[0]}-linux_{TARGET.architecture}"
    files = {"pkg-1.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nTag: {tag}\n".encode(), "pkg/__init__.py": b""}
    wheel = make_wheel(wheels, {**META, **files}).rename(wheels / f"pkg-1.0-{tag}.whl")
    (function / "requirements.lock").write_text(
        f"--no-index\n--find-links ../wheels\npkg==1.0 --hash=sha256:{sha256_of(wheel)}\n"
    )

    archive, _ = build(function, TARGET, tmp_path / "bundles")

    with zipfile.ZipFile(archive) as members:
        assert "dependencies/pkg/__init__.py" in members.namelist()


def test_a_rule_left_out_by_hand_is_not_taken_for_done(function: Path, tmp_path: Path) -> None:
    build(function, TARGET, tmp_path / "bundles")

    archive, report = build(function, TARGET, tmp_path / "bundles", frozenset({"tests"}))

    assert report is not None
    with zipfile.ZipFile(archive) as members:
        assert "dependencies/pkg/tests/test_it.py" in members.namelist()


def test_a_lock_may_leave_rules_out_for_every_machine(function: Path, tmp_path: Path) -> None:
    lock = function / "requirements.lock"
    lock.write_text("# keep: tests, type stubs\n" + lock.read_text())

    archive, _ = build(function, TARGET, tmp_path / "bundles")

    with zipfile.ZipFile(archive) as members:
        assert {"dependencies/pkg/tests/test_it.py", "dependencies/pkg/it.pyi"} <= set(members.namelist())
    lock.write_text("# keep: everything\n" + lock.read_text())
    with pytest.raises(BundleError, match=r"must keep rules of bytecode, tests, .* got everything"):
        build(function, TARGET, tmp_path / "bundles")


def test_the_sdk_of_v1_is_left_out_of_a_bundle(function: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "registry", {"greengrasssdk/__init__.py": b""}, "greengrasssdk")
    lock = function / "requirements.lock"
    lock.write_text(lock.read_text() + f"greengrasssdk==1.0 --hash=sha256:{sha256_of(wheel)}\n")

    archive, report = build(function, TARGET, tmp_path / "bundles")

    assert report is not None
    assert "greengrasssdk-1.0-py3-none-any.whl is left out" in report.text()
    with zipfile.ZipFile(archive) as members:
        assert not [name for name in members.namelist() if "greengrasssdk" in name]


def test_a_wheel_with_another_hash_is_refused(function: Path, tmp_path: Path) -> None:
    make_wheel(tmp_path / "registry", {**FILES, "pkg/__init__.py": b"VALUE = 43\n"})

    with pytest.raises(BundleError, match=r"fn: every wheel must have one of the hashes in .* not so pkg-1\.0"):
        build(function, TARGET, tmp_path / "bundles")


def test_a_lock_without_hashes_is_refused(function: Path, tmp_path: Path) -> None:
    (function / "requirements.lock").write_text("pkg==1.0\n")

    with pytest.raises(BundleError, match=r"must pin a version by == and have a hash, got .pkg==1.0"):
        build(function, TARGET, tmp_path / "bundles")


def test_a_wheel_may_not_write_outside_or_over_another_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="a path must lie inside the wheel"):
        unpack(make_wheel(tmp_path, {"../evil.py": b""}), tmp_path / "out")
    unpack(make_wheel(tmp_path, {"shared.py": b"1"}, "a"), tmp_path / "out")
    unpack(make_wheel(tmp_path, {"shared.py": b"1"}, "b"), tmp_path / "out")
    with pytest.raises(BundleError, match=r"shared\.py is in another wheel"):
        unpack(make_wheel(tmp_path, {"shared.py": b"2"}, "c"), tmp_path / "out")


def test_more_than_greengrass_takes_is_refused_with_the_largest_parts(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"p{number:02}").mkdir()
        (tmp_path / f"p{number:02}" / "x.so").write_bytes(b"x" * (100 + number))
    parts = largest_parts(tmp_path)

    assert len(parts) == 10
    assert parts[0] == ("p11/x.so", 111)
    with pytest.raises(
        BundleTooLargeError, match=r"fn: a component may have 2000 MB, got 2000\.0 MB; .*p11/x\.so 0\.0 MB"
    ):
        check_size("fn", 2_000_000_001, parts)
    warning = check_size("fn", 250_000_001, parts)
    assert warning is not None
    assert "more than the 250 MB" in warning
    assert check_size("fn", 250_000_000, parts) is None


@pytest.mark.skipif(shutil.which("strip") is None, reason="binutils are not installed")
def test_strips_a_shared_object_that_still_loads_and_leaves_others_alone(tmp_path: Path) -> None:
    import numpy as np

    source = Path(np.__file__).parent / "random"
    library = next(source.glob("mtrand*.so"))
    shutil.copy(library, tmp_path / library.name)
    (tmp_path / "broken.so").write_bytes(library.read_bytes()[:2000])
    (tmp_path / "text.so").write_text("INPUT(libc.so)")

    cut, note = strip(tmp_path, TARGET.architecture)

    assert loadable(tmp_path / library.name)
    assert (tmp_path / library.name).stat().st_size == library.stat().st_size - cut.size_bytes
    assert (tmp_path / "broken.so").stat().st_size == 2000
    assert "left as they are" in note
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([library.name, "broken.so", "text.so"])


def test_a_strip_that_does_not_end_leaves_the_object_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages, program = tmp_path / "packages", tmp_path / "slow-strip"
    packages.mkdir()
    library = packages / "lib.so"
    library.write_bytes(Path(sys.executable).resolve().read_bytes())
    before = sha256_of(library)
    program.write_text("#!/bin/sh\nexec sleep 300\n")
    program.chmod(0o755)
    monkeypatch.setattr(bundle_trim, "STRIP_LIMIT_S", 0.1)

    cut, note = strip(packages, TARGET.architecture, str(program))

    assert (cut.files, sha256_of(library)) == (0, before)
    assert note == f"1 shared objects were left as they are: {program} does not manage them"
    assert [path.name for path in packages.iterdir()] == ["lib.so"]


@pytest.mark.parametrize("stand_in", ["#!/bin/sh\nexec sleep 300\n", "for another system"])
def test_a_stand_in_for_a_python_that_does_not_answer_is_none(
    stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python3.9").write_text(stand_in)
    (tmp_path / "python3.9").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bundle_trim, "IMPORT_LIMIT_S", 0.1)

    assert find_interpreter(Target("3.9", TARGET.architecture)) is None


def test_without_strip_the_report_says_so(tmp_path: Path) -> None:
    cut, note = strip(tmp_path, TARGET.architecture, program="no-such-strip")

    assert (cut.files, note) == (0, "no-such-strip is not installed: shared objects keep their symbols")


def test_an_object_whose_segments_do_not_fit_the_pages_is_not_loadable(tmp_path: Path) -> None:
    import numpy as np

    good = next((Path(np.__file__).parent / "random").glob("mtrand*.so"))
    content = bytearray(good.read_bytes())
    table = int.from_bytes(content[32:40], "little")
    for number in range(int.from_bytes(content[56:58], "little")):
        entry = table + number * 56
        if content[entry : entry + 4] == b"\1\0\0\0":
            content[entry + 16] ^= 0x08  # one bit of the segment's address
    (tmp_path / "bad.so").write_bytes(content)
    (tmp_path / "no.so").write_bytes(b"text")

    assert loadable(good)
    assert not loadable(tmp_path / "bad.so")
    assert not loadable(tmp_path / "no.so")


def test_trimming_removes_folders_that_are_left_empty(tmp_path: Path) -> None:
    (tmp_path / "pkg" / "tests" / "deep").mkdir(parents=True)
    (tmp_path / "pkg" / "tests" / "deep" / "t.py").touch()

    trim(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_command_line_reports_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bundle.main([str(tmp_path / "nothing")]) == 1
    assert "bundle: nothing: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bundle.main([])
    assert bundle.main(["--all-stages"]) == 0
