import gzip
import tarfile
from pathlib import Path

import pytest
from botocore.exceptions import IncompleteReadError

from edge_handlers import model_archive as archive
from edge_handlers.model_archive import ArchiveError, fetch
from edge_handlers.s3_objects import S3Location
from edge_handlers.service_client import AwsCallError
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import special, targz

PLACE = S3Location("artifacts-dev", "sources/digits/SHA/model.tar.gz")
GOOD = targz({"./model.onnx": b"weights" * 1000, "labels/names.txt": b"0\n1\n"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "unpacked"


def unpack(s3: FakeS3, content: bytes, folder: Path, max_bytes: int = archive.MAX_BYTES) -> tuple[str, ...]:
    s3.put(PLACE.bucket, PLACE.key, content)
    return fetch(PLACE, folder, s3, max_bytes)


def test_unpacks_files_in_folders(s3: FakeS3, folder: Path) -> None:
    assert unpack(s3, GOOD, folder) == ("labels/names.txt", "model.onnx")
    assert (folder / "model.onnx").read_bytes() == b"weights" * 1000


@pytest.mark.parametrize("name", ["../model.onnx", "a/../../model.onnx", "/etc/passwd", "a\nb", "."])
def test_refuses_names_that_lead_elsewhere(s3: FakeS3, folder: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match=f"model archive {PLACE} must hold relative paths inside it, got"):
        unpack(s3, targz({name: b"x"}), folder)
    assert not (folder.parent / "model.onnx").exists()


@pytest.mark.parametrize(
    "member",
    [
        special("model.onnx", tarfile.SYMTYPE, "/etc/passwd"),
        special("model.onnx", tarfile.LNKTYPE, "other"),
        special("model.onnx", tarfile.FIFOTYPE),
        special("model.onnx", tarfile.CHRTYPE),
        special("model.onnx", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_refuses_links_and_devices(s3: FakeS3, folder: Path, member: tarfile.TarInfo) -> None:
    with pytest.raises(ArchiveError, match=r"must hold regular files only, got 'model\.onnx'"):
        unpack(s3, targz({}, extra=(member,)), folder)


def test_a_small_archive_cannot_fill_the_disk(s3: FakeS3, folder: Path) -> None:
    bomb = targz({"model.onnx": bytes(50_000_000)})

    with pytest.raises(ArchiveError, match="must unpack to at most 1000000 bytes, got more"):
        unpack(s3, bomb, folder, max_bytes=1_000_000)

    assert len(bomb) < 100_000
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 2_000_000


def test_what_follows_the_tar_counts_too(s3: FakeS3, folder: Path) -> None:
    with pytest.raises(ArchiveError, match="must unpack to at most"):
        unpack(s3, GOOD + gzip.compress(bytes(50_000_000)), folder, max_bytes=1_000_000)


def test_refuses_too_many_files(s3: FakeS3, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 3)

    assert len(unpack(s3, targz({str(n): b"" for n in range(3)}), folder)) == 3
    with pytest.raises(ArchiveError, match="must hold at most 3 files, got more"):
        unpack(s3, targz({str(n): b"" for n in range(4)}), folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive at all",
        gzip.compress(b"no tar in it" * 100),
        GOOD[: len(GOOD) // 2],
        GOOD[:-8] + bytes(8),  # the checksum of another content
        GOOD[:30] + bytes([GOOD[30] ^ 0xFF]) + GOOD[31:],
        targz({"a": b"file", "a/b": b"in a folder of the same name"}),
    ],
    ids=["empty", "text", "gzip without tar", "cut short", "checksum", "flipped byte", "file and folder"],
)
def test_a_damaged_archive_is_named_with_what_to_do(s3: FakeS3, folder: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match=f"model archive {PLACE} must .*again"):
        unpack(s3, content, folder)


@pytest.mark.parametrize("content", [targz({}), targz({}, extra=(special("folder", tarfile.DIRTYPE),))])
def test_an_archive_without_a_file_is_refused(s3: FakeS3, folder: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError, match="must hold the model, got no file"):
        unpack(s3, content, folder)


def test_refuses_a_name_that_comes_twice(s3: FakeS3, folder: Path) -> None:
    with pytest.raises(ArchiveError, match=r"must hold each file once, got 'model\.onnx' twice"):
        unpack(s3, targz({"model.onnx": b"a", "./model.onnx": b"b"}), folder)


def test_a_connection_that_breaks_is_tried_again(s3: FakeS3, folder: Path) -> None:
    s3.broken_bodies = 2

    assert unpack(s3, GOOD, folder) == ("labels/names.txt", "model.onnx")
    assert len(s3.called("get_object")) == 3


def test_a_connection_that_keeps_breaking_is_reported(s3: FakeS3, folder: Path) -> None:
    s3.broken_bodies = 9

    with pytest.raises(IncompleteReadError):
        unpack(s3, GOOD, folder)
    assert len(s3.called("get_object")) == 3


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey"])
def test_an_archive_that_cannot_be_read_is_named(s3: FakeS3, folder: Path, code: str) -> None:
    s3.refuse("get_object", code)

    with pytest.raises(AwsCallError, match=f"cannot read model archive {PLACE}: .*{code}"):
        unpack(s3, GOOD, folder)


@pytest.mark.parametrize("uri", ["", "s3://bucket", "s3://b/key", "https://bucket/key", "s3://Bucket/key"])
def test_refuses_what_is_no_s3_location(uri: str) -> None:
    with pytest.raises(ValueError, match="an S3 location must look like s3://bucket/key, got"):
        S3Location.parse(uri)
