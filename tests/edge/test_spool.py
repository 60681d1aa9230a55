import sqlite3
from pathlib import Path

import pytest

from edge_component.outbox import Spool


def drained(spool: Spool) -> list[bytes]:
    found = []
    while (message := spool.first()) is not None:
        found.append(message[1])
        spool.remove_first(*message)
    return found


def add(spool: Spool, *payloads: bytes) -> bool:
    return spool.extend([("topic", payload) for payload in payloads])


def test_keeps_messages_in_order_until_they_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1", b"2")
    assert add(spool, b"3")

    assert spool.first() == ("topic", b"1")
    assert len(spool) == 3
    assert drained(spool) == [b"1", b"2", b"3"]
    assert (len(spool), spool.first()) == (0, None)


def test_another_message_than_the_oldest_is_not_taken_for_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1", b"2")

    spool.remove_first("topic", b"2")
    spool.remove_first("other", b"1")

    assert drained(spool) == [b"1", b"2"]


def test_without_a_file_nothing_is_taken() -> None:
    spool = Spool()

    assert not add(spool, b"1")
    assert (len(spool), spool.first()) == (0, None)


def test_messages_outlive_the_process_that_is_killed(tmp_path: Path) -> None:
    first = Spool(tmp_path / "spool.sqlite")
    assert add(first, b"1", b"2", b"3")
    first.remove_first("topic", b"1")
    # Not closed: a killed process does not do that either.

    again = Spool(tmp_path / "spool.sqlite")

    assert drained(again) == [b"2", b"3"]


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "spool.sqlite"
    file.write_bytes(b"no database" * 1000)

    spool = Spool(file)
    assert add(spool, b"1")

    assert drained(Spool(file)) == [b"1"]
    assert (tmp_path / "spool.damaged").is_file()
    assert "cannot be used" in caplog.text


def test_a_disk_that_refuses_for_a_while_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "spool.sqlite"
    first = Spool(file)
    assert add(first, b"1")
    first.close()
    blocked = tmp_path / "spool.sqlite-wal"
    blocked.mkdir()  # the log cannot be made: the open fails as on a full disk, by an OperationalError

    again = Spool(file)
    assert not add(again, b"2")
    assert "cannot be used" in caplog.text
    blocked.rmdir()
    assert add(again, b"3")

    assert drained(again) == [b"1", b"3"]
    assert not (tmp_path / "spool.damaged").exists()


def test_a_disk_that_becomes_usable_later_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "work").write_text("")
    file = tmp_path / "work" / "spool.sqlite"

    spool = Spool(file)
    assert not add(spool, b"1")
    assert "cannot be used" in caplog.text

    (tmp_path / "work").unlink()
    assert add(spool, b"1")
    assert drained(Spool(file)) == [b"1"]


def test_a_full_disk_takes_all_or_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1")
    database = spool._database
    assert database is not None
    database.execute(f"PRAGMA max_page_count={database.execute('PRAGMA page_count').fetchone()[0]}")

    assert not add(spool, b"2", b"3" * 100_000)
    assert (len(spool), drained(spool)) == (1, [b"1"])

    database.execute("PRAGMA max_page_count=100000")
    assert add(spool, b"2")
    assert drained(spool) == [b"2"]


def test_what_cannot_be_deleted_is_still_published_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1", b"2")
    database = spool._database
    assert database is not None
    database.execute("PRAGMA query_only=ON")  # every write fails, as on a full disk

    assert drained(spool) == [b"1", b"2"]


def test_an_unreadable_store_does_not_stop_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1")
    sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None).execute("DROP TABLE messages")

    assert spool.first() is None
    assert "1 messages cannot be published" in caplog.text
    assert add(spool, b"2")
    assert drained(spool) == [b"2"]


def test_what_was_published_of_a_store_is_not_taken_for_messages_of_the_next_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1", b"2", b"3")
    spool.remove_first("topic", b"1")
    spool.remove_first("topic", b"2")
    sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None).execute("DROP TABLE messages")
    assert spool.first() is None

    assert add(spool, b"4")

    assert drained(spool) == [b"4"]


def test_a_closed_spool_is_empty_until_it_is_opened_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    assert add(spool, b"1")

    spool.close()

    assert (len(spool), spool.first()) == (0, None)
    assert len(Spool(tmp_path / "spool.sqlite")) == 1


def test_a_message_that_the_disk_has_garbled_holds_up_none_behind_it(tmp_path: Path) -> None:
    file = tmp_path / "spool.sqlite"
    first = Spool(file)
    assert first.extend([("topic-1", b"1"), ("topic-2", b"2")])
    first.close()
    content = file.read_bytes()
    assert content.count(b"topic-1") == 1
    file.write_bytes(content.replace(b"topic-1", b"\xffopic-1"))

    assert drained(Spool(file)) == [b"1", b"2"]


def test_a_store_whose_damage_shows_with_a_message_is_put_aside(tmp_path: Path) -> None:
    file = tmp_path / "spool.sqlite"
    first = Spool(file)
    assert add(first, b"1" * 100_000)
    first.close()
    content = file.read_bytes()
    # All pages of the message but its first: each begins with the number of the next.
    file.write_bytes(content[: 3 * 4096] + b"\xff" * (len(content) - 3 * 4096))

    spool = Spool(file)
    assert (len(spool), spool.first()) == (1, None)
    assert add(spool, b"2")

    assert drained(spool) == [b"2"]
    assert (tmp_path / "spool.damaged").is_file()
