"""What an archive unpacks: the same with a Python that has tarfile's filters and with one that has none."""

import io
import tarfile
from pathlib import Path

import pytest

from twin.files import unpack


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
