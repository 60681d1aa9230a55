"""Hostile and honest archives."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from twin.core_device.deployment import artifacts
from twin.core_device.deployment.artifacts import unpack_zip
from twin.core_device.errors import DeploymentError


def pack(path: Path, entries: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (modes or {}).get(name, 0o644) << 16
            archive.writestr(entry, content)
    return path


def test_what_a_kill_left_half_unpacked_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "a.new").mkdir()
    (tmp_path / "a.new" / "half").write_text("")

    unpack_zip(pack(tmp_path / "a.zip", {"run.sh": b"x"}), tmp_path / "a")

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run.sh"]


def test_unpacks_and_replaces_what_was_there(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"run.sh": b"x", "d/e/f": b"y"}, {"run.sh": 0o755})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("")

    unpack_zip(archive, tmp_path / "a")

    assert sorted(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file()) == [
        "d/e/f",
        "run.sh",
    ]
    assert (tmp_path / "a" / "run.sh").stat().st_mode & 0o111
    assert not (tmp_path / "a.new").exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil"])
def test_an_entry_outside_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / "a.zip", {"good": b"x", name: b"x"})

    with pytest.raises(DeploymentError, match="outside of the folder"):
        unpack_zip(archive, tmp_path / "out" / "a")

    assert list(tmp_path.rglob("evil")) == []
    assert not (tmp_path / "out" / "a").exists()


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"link": b"/etc/passwd"}, {"link": stat.S_IFLNK | 0o777})

    with pytest.raises(DeploymentError, match="symbolic link"):
        unpack_zip(archive, tmp_path / "a")


def test_content_out_of_proportion_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"zeros": bytes(64 << 20)})

    with pytest.raises(DeploymentError, match="must unpack to at most 16777216 bytes, got 67108864"):
        unpack_zip(archive, tmp_path / "a")


def test_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"x": b"12345"})

    with pytest.raises(DeploymentError, match="at most 4 bytes, got 5"):
        unpack_zip(archive, tmp_path / "a", limit_bytes=4)


def test_exactly_the_limit_is_unpacked(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"x": b"12", "y": b"345"})

    unpack_zip(archive, tmp_path / "a", limit_bytes=5)

    assert (tmp_path / "a" / "y").read_bytes() == b"345"


def test_exactly_what_any_archive_may_unpack_to_is_unpacked(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"zeros": bytes(16 << 20)})
    larger = pack(tmp_path / "b.zip", {"zeros": bytes((16 << 20) + 1)})

    unpack_zip(archive, tmp_path / "a")
    with pytest.raises(DeploymentError, match="at most 16777216 bytes, got 16777217"):
        unpack_zip(larger, tmp_path / "b")

    assert (tmp_path / "a" / "zeros").stat().st_size == 16 << 20


def test_exactly_as_many_entries_as_are_allowed_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "ENTRY_LIMIT", 2)

    unpack_zip(pack(tmp_path / "a.zip", {"x": b"", "y": b""}), tmp_path / "a")
    with pytest.raises(DeploymentError, match="at most 2 entries, got 3"):
        unpack_zip(pack(tmp_path / "b.zip", {"x": b"", "y": b"", "z": b""}), tmp_path / "b")

    assert len(list((tmp_path / "a").iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_archive_is_an_error(tmp_path: Path, damage: bytes | None) -> None:
    archive = pack(tmp_path / "a.zip", {"x": b"12345" * 1000})
    content = archive.read_bytes()
    archive.write_bytes(content[:40] + bytes(8) + content[48:] if damage is None else damage)

    with pytest.raises(DeploymentError, match="not a readable ZIP archive"):
        unpack_zip(archive, tmp_path / "a")


@pytest.mark.parametrize("mode", [0o440, 0o550, 0o755])
def test_the_nucleus_decides_on_the_rights_and_not_the_archive(mode: int, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"run.sh": b"x", "data": b"y"}, {"run.sh": 0o755})

    unpack_zip(archive, tmp_path / "a", mode=mode)

    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()} == {mode}
