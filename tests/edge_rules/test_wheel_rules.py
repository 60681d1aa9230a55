"""Which glibc shared objects need: of small ones made here, and of all that this repository ships."""

import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest

from config.kept_answers import KeptAnswers
from edge_constructs.edge_assets import HANDLERS
from edge_constructs.handler_provider import SOURCE_ROOT
from edge_rules import wheel_rules
from edge_rules.wheel_rules import DEVICE_GLIBC, SharedObjectError, glibc_needs, glibc_of, needed_glibc
from tests.edge_rules.small_elf import shared_object, wheel

RUNTIME = Path(__file__).resolve().parents[2] / "edge_assets" / "runtime" / "wheelhouse"


@pytest.mark.parametrize(
    ("versions", "needed"),
    [
        (("GLIBC_2.2.5", "GLIBC_2.28", "GLIBC_2.4"), (2, 28)),
        (("GLIBC_2.9", "GLIBC_2.17"), (2, 17)),
        (("GCC_3.0", "GLIBC_PRIVATE"), None),
        ((), None),
    ],
)
def test_the_newest_version_counts(versions: tuple[str, ...], needed: tuple[int, ...] | None) -> None:
    assert needed_glibc(shared_object(*versions)) == needed


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(99), shared_object("GLIBC_2.4")[:90]]
)
def test_what_is_no_whole_shared_object_is_refused(content: bytes) -> None:
    with pytest.raises(SharedObjectError, match="a shared object must be"):
        needed_glibc(content)


def test_folders_archives_and_wheels_in_archives_are_read(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "libx.so.1").write_bytes(shared_object("GLIBC_2.34"))
    (tmp_path / "code" / "notes.so.txt").write_bytes(b"text")
    archive = tmp_path / "runtime.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("wheels/x-1-cp312-cp312-manylinux_2_28_x86_64.whl", wheel("2.28"))
        members.writestr("plain.so", shared_object("GLIBC_2.17"))

    assert glibc_needs(tmp_path / "code") == (("libx.so.1", (2, 34)),)
    assert dict(glibc_needs(archive)) == {
        "x-1-cp312-cp312-manylinux_2_28_x86_64.whl: package/module.so": (2, 28),
        "plain.so": (2, 17),
    }
    assert glibc_needs(tmp_path / "missing") == ()


def test_who_asks_for_what_is_read_ahead_waits_for_it_and_reads_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, broken = tmp_path / "runtime.zip", tmp_path / "broken.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("plain.so", shared_object("GLIBC_2.17"))
    broken.write_bytes(archive.read_bytes()[:-4] + b"\xff" * 4)
    begun, released, readers = threading.Event(), threading.Event(), []

    def needed(content: bytes) -> tuple[int, ...] | None:
        readers.append(threading.current_thread().name)
        begun.set()
        assert released.wait(60)
        return needed_glibc(content)

    monkeypatch.setattr(wheel_rules, "needed_glibc", needed)
    with wheel_rules.read_ahead([broken, archive]):
        assert begun.wait(60)
        asked = threading.Thread(target=lambda: readers.append(repr(glibc_needs(archive))))
        asked.start()
        assert not readers[1:]  # it waits, for the other one has not ended
        released.set()
        asked.join(60)

    assert readers == ["read ahead", "(('plain.so', (2, 17)),)"]


def test_what_nobody_has_asked_for_by_the_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("used", "of an earlier synth", "of another")]
    begun, released, asked = threading.Event(), threading.Event(), []

    def needs(place: Path) -> None:
        asked.append(place)
        begun.set()
        assert released.wait(60)

    monkeypatch.setattr(wheel_rules, "glibc_needs", needs)
    with wheel_rules.read_ahead(places):
        assert begun.wait(60)
        (reader,) = [thread for thread in threading.enumerate() if thread.name == "read ahead"]
    released.set()
    reader.join(60)

    assert asked == places[:1]


def test_an_archive_that_an_earlier_synth_has_read_is_not_unpacked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = KeptAnswers()
    answers.keep_in(tmp_path / "kept.json")
    monkeypatch.setattr(wheel_rules, "KEPT", answers)
    first, copy, other = (tmp_path / name for name in ("first.zip", "copy.zip", "other.zip"))
    for place, version in ((first, "2.28"), (other, "2.34")):
        with zipfile.ZipFile(place, "w") as members:
            members.writestr("wheels/x-1-cp312-cp312-manylinux_2_28_x86_64.whl", wheel(version))
    copy.write_bytes(first.read_bytes())
    read = glibc_needs(first)

    monkeypatch.setattr(wheel_rules, "needed_glibc", lambda _content: (9, 9))

    assert glibc_needs(copy) == read == (("x-1-cp312-cp312-manylinux_2_28_x86_64.whl: package/module.so", (2, 28)),)
    assert [needs for _, needs in glibc_needs(other)] == [(9, 9)]


def test_a_real_library_says_what_its_wheel_says() -> None:
    (library,) = (Path(sysconfig.get_path("platlib")) / "onnxruntime" / "capi").glob("libonnxruntime.so*")

    assert needed_glibc(library.read_bytes()) == (2, 28)


@pytest.mark.parametrize(
    ("runtime", "version"),
    [("python3.11", (2, 26)), ("python3.12", (2, 34)), ("nodejs18.x", (2, 26)), ("nodejs22.x", (2, 34))],
)
def test_older_runtimes_of_lambda_have_an_older_glibc(runtime: str, version: tuple[int, ...]) -> None:
    assert glibc_of(runtime) == version


def test_every_bundle_that_set_up_made_runs_on_the_oldest_device() -> None:
    bundles = sorted([*RUNTIME.glob("runtime-*.zip"), *(HANDLERS / "bundles").glob("*.zip")])
    needs = [(bundle.name, *each) for bundle in bundles for each in glibc_needs(bundle)]

    assert [each for each in needs if each[2] > DEVICE_GLIBC] == []
    # One version older and it would not: the limit is the real one.
    assert [each for each in needs if each[2] > (2, 27)]


def test_no_handler_brings_a_shared_object() -> None:
    assert glibc_needs(SOURCE_ROOT / "edge_handlers") == ()
