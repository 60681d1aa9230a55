"""What an archive unpacks, with tarfile's filters and without; files that are replaced together."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from twin.files import finish_together, unpack, write_together, write_whole

ROOT = Path(__file__).resolve().parents[2]


def archive(*members: tuple[str, bytes]) -> tarfile.TarFile:
    """A tar of members: name and type."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as made:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = 4 if kind == tarfile.REGTYPE else 0
            made.addfile(info, io.BytesIO(b"text"))
    return tarfile.open(fileobj=io.BytesIO(content.getvalue()))


@pytest.fixture(params=["filters", "no filters"])
def _python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no filters":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


@pytest.mark.usefixtures("_python")
def test_files_and_folders_are_unpacked(tmp_path: Path) -> None:
    with archive(("a", tarfile.DIRTYPE), ("a/b.onnx", tarfile.REGTYPE)) as tar:
        for member in tar:
            unpack(tar, member, tmp_path / "out")

    assert (tmp_path / "out" / "a" / "b.onnx").read_bytes() == b"text"


@pytest.mark.usefixtures("_python")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out.onnx", tarfile.REGTYPE),
        ("a/../../out.onnx", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
    ],
)
def test_what_leaves_the_folder_or_is_no_file_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    with archive((name, kind)) as tar:
        for member in tar:
            with pytest.raises(tarfile.TarError):
                unpack(tar, member, tmp_path / "out")

    assert not (tmp_path / "out.onnx").exists()


class Killed(BaseException):
    """In the place of SIGKILL: no handler of errors sees it."""


@pytest.mark.parametrize("call", range(5))
def test_files_that_belong_together_are_all_old_or_all_new_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    for name in "abc":
        (tmp_path / name).write_text("old")
    calls = 0

    def killing(method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call * 2 + 1:
                raise Killed
            return method(*arguments, **named)

        return called

    for name in ("mkdir", "write_text", "rename", "replace", "rmdir"):
        monkeypatch.setattr(Path, name, killing(getattr(Path, name)))
    with suppress(Killed):
        write_together(tmp_path, dict.fromkeys("abc", "new"))
    monkeypatch.undo()

    finish_together(tmp_path)

    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(found) == set("abc")
    assert len(set(found.values())) == 1, found
    write_together(tmp_path, dict.fromkeys("ab", "newest"))
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "newest"


def test_two_processes_may_write_a_file_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = tmp_path / "fleet.json", Path.replace
    code = f"import pathlib, twin.files; twin.files.write_whole(pathlib.Path({str(path)!r}), 'the other one')"

    def replace_after_the_other(self: Path, target: Path) -> Path:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
        assert path.read_text() == "the other one"
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_after_the_other)
    write_whole(path, "this one")

    assert path.read_text() == "this one"
    assert list(tmp_path.iterdir()) == [path]
