import sqlite3
from pathlib import Path

import pytest

from edge_inference.spool import Spool


def drained(spool: Spool) -> list[bytes]:
    found = []
    while (message := spool.first()) is not None:
        found.append(message[1])
        spool.remove_first()
    return found


@pytest.mark.parametrize("on_disk", [True, False])
def test_keeps_messages_in_order_until_they_are_removed(tmp_path: Path, on_disk: bool) -> None:
    spool = Spool(tmp_path / "spool.sqlite" if on_disk else None)
    for payload in (b"1", b"2", b"3"):
        spool.append("topic", payload)

    assert spool.first() == ("topic", b"1")
    assert len(spool) == 3
    assert drained(spool) == [b"1", b"2", b"3"]
    assert (len(spool), spool.first()) == (0, None)


def test_messages_outlive_the_process_that_is_killed(tmp_path: Path) -> None:
    first = Spool(tmp_path / "spool.sqlite")
    for payload in (b"1", b"2", b"3"):
        first.append("topic", payload)
    first.remove_first()
    # Not closed: a killed process does not do that either.

    again = Spool(tmp_path / "spool.sqlite")

    assert drained(again) == [b"2", b"3"]


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "spool.sqlite"
    file.write_bytes(b"no database" * 1000)

    spool = Spool(file)
    spool.append("topic", b"1")

    assert drained(Spool(file)) == [b"1"]
    assert (tmp_path / "spool.damaged").is_file()
    assert "cannot be used" in caplog.text


def test_without_a_usable_disk_messages_wait_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    spool = Spool(tmp_path / "file" / "spool.sqlite")
    spool.append("topic", b"1")

    assert drained(spool) == [b"1"]


def test_a_full_disk_keeps_what_is_new_in_memory_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    spool.append("topic", b"1")
    database = spool._database
    assert database is not None
    database.execute("PRAGMA query_only=ON")  # every write fails, as on a full disk

    spool.append("topic", b"2")
    assert (len(spool), drained(spool)) == (2, [b"1", b"2"])

    database.execute("PRAGMA query_only=OFF")
    spool.append("topic", b"3")
    assert drained(spool) == [b"3"]


def test_an_unreadable_store_does_not_stop_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    spool.append("topic", b"1")
    sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None).execute("DROP TABLE messages")

    assert spool.first() is None
    assert "1 messages are lost" in caplog.text
    spool.append("topic", b"2")
    assert drained(spool) == [b"2"]


def test_a_closed_spool_is_empty_until_it_is_opened_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    spool.append("topic", b"1")

    spool.close()

    assert (len(spool), spool.first()) == (0, None)
    assert len(Spool(tmp_path / "spool.sqlite")) == 1
