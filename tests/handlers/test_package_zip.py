import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from edge_handlers.model_package import write_zip
from edge_handlers.s3_objects import sha256_of


def _files(folder: Path, names: list[str], seconds: int) -> dict[str, Path]:
    files = {}
    for name in names:
        path = folder / name.replace("/", "-")
        path.write_bytes(name.encode())
        os.utime(path, (seconds, seconds))
        path.chmod(0o600 if seconds else 0o644)
        files[name] = path
    return files


def test_order_times_and_modes_leave_no_trace(tmp_path: Path) -> None:
    one, two = tmp_path / "one.zip", tmp_path / "two.zip"

    write_zip(one, _files(tmp_path, ["b", "a/c", "a.txt"], 0), {"manifest.json": b"{}"})
    write_zip(two, _files(tmp_path, ["a.txt", "b", "a/c"], 1_700_000_000), {"manifest.json": b"{}"})

    assert one.read_bytes() == two.read_bytes()


def test_entries_are_sorted_stored_and_readable_by_everybody(tmp_path: Path) -> None:
    target = tmp_path / "package.zip"

    write_zip(target, _files(tmp_path, ["b", "a"], 0), {"manifest.json": b"{}", "0": b""})

    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["0", "a", "b", "manifest.json"]
        assert archive.read("a") == b"a"
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.external_attr >> 16 == 0o100644


def test_refuses_a_name_that_is_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a name must be in the archive once, got \['a'\] twice"):
        write_zip(tmp_path / "package.zip", _files(tmp_path, ["a"], 0), {"a": b""})


def test_digests_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
