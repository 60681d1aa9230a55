import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from edge_component import outbox as outbox_module
from edge_component.ipc import IpcError, RefusedError
from edge_component.outbox import FIRST_RETRY_S, GROUP, LONGEST_RETRY_S, Outbox, Spool
from tests.edge.publications import Held, Pauses, Published

#: Nothing here takes long; a busy machine may.
LIMIT_S = 30


class Clock:
    """Moves when it is told to, and counts who asks."""

    now = 0.0
    reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    def let_pass(self, seconds: float) -> None:
        """Move on once the outbox pauses: before, it would count its pause from the new time."""
        # After a failure it asks three times until it knows how long it pauses, and then again and again.
        before = self.reads
        wait_until(lambda: self.reads > before + 3)
        self.now += seconds


class FakePublisher:
    """Publishes into a list; raises what it was given first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sent: list[bytes] = []

    def publish(self, topic: str, payload: bytes) -> Published:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(payload)
        return Published()


class SlowPublisher:
    """Takes each message and holds it until it is let go."""

    def __init__(self) -> None:
        self.held: list[tuple[bytes, Held]] = []

    def publish(self, topic: str, payload: bytes) -> Held:
        self.held.append((payload, Held()))
        return self.held[-1][1]

    @property
    def payloads(self) -> list[bytes]:
        """All that came, in order."""
        return [payload for payload, _ in self.held]

    def end(self, numbers: Iterable[int]) -> None:
        """Let some of them go."""
        for number in numbers:
            self.held[number][1].done.set()


def wait_until(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def running(box: Outbox) -> Iterator[Outbox]:
    thread = threading.Thread(target=box.run, daemon=True)
    thread.start()
    yield box
    box.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    with running(Outbox(capacity=3)) as box:
        yield box


@pytest.fixture
def outbox_of_many() -> Iterator[Outbox]:
    with running(Outbox()) as box:
        yield box


def test_publishes_in_order_and_keeps_what_a_busy_device_refuses_for_now(outbox: Outbox) -> None:
    publisher = FakePublisher(IpcError("busy"), IpcError("busy"))
    for payload in (b"1", b"2", b"3"):
        assert outbox.put("topic", payload)

    outbox.attach(publisher)

    assert outbox.drain(LIMIT_S) == 0
    assert publisher.sent == [b"1", b"2", b"3"]
    assert outbox.dropped == 0


def test_drops_what_is_refused_for_good_and_goes_on(outbox: Outbox) -> None:
    publisher = FakePublisher(RefusedError("not in accessControl"))
    outbox.attach(publisher)

    outbox.put("topic", b"1")
    outbox.put("topic", b"2")

    assert outbox.drain(LIMIT_S) == 0
    assert (publisher.sent, outbox.dropped) == ([b"2"], 1)


def test_gives_up_on_a_message_that_blocks_the_others() -> None:
    publisher = FakePublisher(*[IpcError("never")] * 1000)
    with running(Outbox(give_up_s=0.3)) as outbox:
        outbox.attach(publisher)
        outbox.put("topic", b"1")

        wait_until(lambda: outbox.dropped)
        publisher.failures.clear()
        outbox.put("topic", b"2")

        assert outbox.drain(LIMIT_S) == 0
        assert publisher.sent == [b"2"]


def test_an_outage_of_the_connection_does_not_count_against_a_message() -> None:
    clock = Clock()
    with running(Outbox(give_up_s=100, clock=clock)) as box:
        first, second = FakePublisher(IpcError("going down")), FakePublisher(IpcError("not up yet"))
        box.attach(first)
        box.put("topic", b"1")
        wait_until(lambda: not first.failures)
        box.attach(None)
        clock.let_pass(1000)
        box.attach(second)
        wait_until(lambda: not second.failures)
        clock.let_pass(10)

        assert box.drain(LIMIT_S) == 0
        assert (second.sent, box.dropped) == ([b"1"], 0)


def test_a_message_is_not_blamed_for_the_failures_of_the_one_before() -> None:
    clock = Clock()
    with running(Outbox(give_up_s=100, clock=clock)) as box:
        publisher = FakePublisher(IpcError("busy"))
        box.attach(publisher)
        box.put("topic", b"1")
        wait_until(lambda: not publisher.failures)
        clock.let_pass(90)
        assert box.drain(LIMIT_S) == 0

        publisher.failures = [IpcError("busy")]
        clock.now += 90
        box.put("topic", b"2")
        wait_until(lambda: not publisher.failures)
        clock.let_pass(10)

        assert box.drain(LIMIT_S) == 0
        assert (publisher.sent, box.dropped) == ([b"1", b"2"], 0)


def test_pauses_begin_anew_once_a_message_is_published() -> None:
    clock = Clock()
    with running(Outbox(clock=clock)) as box:
        publisher = FakePublisher()
        box.attach(publisher)
        for _ in range(2):
            publisher.failures = [IpcError("busy")] * 10
            box.put("topic", b"1")
            while publisher.failures:
                clock.now += LONGEST_RETRY_S
                time.sleep(0.02)
            clock.let_pass(LONGEST_RETRY_S)
            assert box.drain(LIMIT_S) == 0

        publisher.failures = [IpcError("busy")]
        box.put("topic", b"2")
        wait_until(lambda: not publisher.failures)
        clock.let_pass(FIRST_RETRY_S)

        assert box.drain(LIMIT_S) == 0, "the pauses of messages before still count"


def test_keeps_its_messages_over_a_change_of_connection(outbox: Outbox) -> None:
    outbox.attach(FakePublisher(*[IpcError("connection lost")] * 1000))
    outbox.put("topic", b"1")
    outbox.attach(None)
    second = FakePublisher()

    outbox.attach(second)

    assert outbox.drain(LIMIT_S) == 0
    assert second.sent == [b"1"]


def test_a_full_outbox_drops_the_newest_counts_it_and_waits_no_longer_than_told(outbox: Outbox) -> None:
    for payload in (b"1", b"2", b"3"):
        outbox.put("topic", payload)

    started = time.monotonic()
    assert not outbox.put("topic", b"4")
    assert not outbox.put("topic", b"5", timeout_s=0.05)

    assert time.monotonic() - started < 30
    assert outbox.dropped == 2
    assert outbox.drain(0) == 3


def test_messages_that_others_follow_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "KEEP_AFTER_S", 30)
    publisher = FakePublisher()
    with running(Outbox()) as box:
        box.attach(publisher)
        for number in range(GROUP - 1):
            box.put("topic", b"%d" % number, more=True)
        time.sleep(0.1)
        assert publisher.sent == [], "the group is not complete"

        box.put("topic", b"last", more=True)
        assert box.drain(LIMIT_S) == 0
        box.put("topic", b"followed", more=True)
        box.put("topic", b"not followed")
        assert box.drain(LIMIT_S) == 0
    assert publisher.sent[GROUP - 1 :] == [b"last", b"followed", b"not followed"]


def test_what_waits_is_on_its_way_together_and_in_order(outbox_of_many: Outbox) -> None:
    publisher = SlowPublisher()
    for number in range(GROUP + 1):
        outbox_of_many.put("topic", b"%d" % number)
    outbox_of_many.attach(publisher)

    wait_until(lambda: len(publisher.held) == GROUP)
    publisher.end(range(GROUP))
    wait_until(lambda: len(publisher.held) == GROUP + 1)
    publisher.end([GROUP])

    assert outbox_of_many.drain(LIMIT_S) == 0
    assert publisher.payloads == [b"%d" % number for number in range(GROUP + 1)]


def test_those_behind_one_that_fails_are_published_again_so_that_the_newest_arrives_last(
    outbox_of_many: Outbox,
) -> None:
    publisher = SlowPublisher()
    for payload in (b"1", b"2", b"3", b"4"):
        outbox_of_many.put("topic", payload)
    outbox_of_many.attach(publisher)
    wait_until(lambda: len(publisher.held) == 4)

    publisher.held[1][1].failure = IpcError("busy")
    publisher.end(range(4))
    for number in (4, 5, 6):
        wait_until(partial(lambda count: len(publisher.held) == count, number + 1))
        publisher.end([number])

    assert outbox_of_many.drain(LIMIT_S) == 0
    assert (publisher.payloads[4:], outbox_of_many.dropped) == ([b"2", b"3", b"4"], 0)


def test_a_device_that_refuses_now_and_then_gets_all_and_few_of_them_twice(outbox_of_many: Outbox) -> None:
    class Refusing:
        """Refuses each fifth for now, whatever is on its way, as nucleus lite does when its places are taken."""

        def __init__(self) -> None:
            self.attempts = 0
            self.arrived: list[int] = []

        def publish(self, topic: str, payload: bytes) -> Held:
            held, self.attempts = Held(), self.attempts + 1
            if self.attempts % 5:
                self.arrived.append(int(payload))
            else:
                held.failure = IpcError("MQTTNoMemory")
            held.done.set()
            return held

    publisher, count = Refusing(), 40
    for number in range(count):
        outbox_of_many.put("topic", b"%d" % number)
    outbox_of_many.attach(publisher)

    assert outbox_of_many.drain(LIMIT_S) == 0
    assert publisher.arrived == [*range(4), *range(5, GROUP), *range(4, count)]


def test_those_behind_one_that_is_refused_are_published_once(outbox_of_many: Outbox) -> None:
    publisher, safe = SlowPublisher(), list[int]()
    for number in range(3):
        outbox_of_many.put("topic", b"%d" % number, on_safe=partial(safe.append, number))
    outbox_of_many.attach(publisher)
    wait_until(lambda: len(publisher.held) == 3)

    publisher.held[1][1].failure = RefusedError("too large")
    publisher.end(range(3))

    assert outbox_of_many.drain(LIMIT_S) == 0
    wait_until(lambda: safe == [0, 1, 2])
    assert (len(publisher.held), outbox_of_many.dropped) == (3, 1)


def test_nothing_is_begun_behind_one_that_cannot_be_begun_for_now(outbox_of_many: Outbox) -> None:
    class Ending(FakePublisher):
        def publish(self, topic: str, payload: bytes) -> Published:
            if payload == b"2" and self.failures:
                raise self.failures.pop()
            self.sent.append(payload)
            return Published()

    publisher = Ending(IpcError("the connection has just ended"))
    for payload in (b"1", b"2", b"3"):
        outbox_of_many.put("topic", payload)
    outbox_of_many.attach(publisher)

    assert outbox_of_many.drain(LIMIT_S) == 0
    assert publisher.sent == [b"1", b"2", b"3"]


def test_several_on_their_way_that_went_to_disk_meanwhile_leave_it_once_they_are_published(tmp_path: Path) -> None:
    file = tmp_path / "spool.sqlite"
    spool, publisher = Spool(file), SlowPublisher()
    with running(Outbox(spool=spool)) as box:
        # None of them is on disk when the way out is there.
        box._keep_at = float("inf")
        for payload in (b"1", b"2", b"3"):
            box.put("topic", payload)
        box.attach(publisher)
        wait_until(lambda: len(publisher.held) == 3)
        box._keep_at = 0.0
        wait_until(lambda: len(spool) == 3)

        publisher.held[1][1].failure = IpcError("busy")
        publisher.end(range(3))
        wait_until(lambda: len(publisher.held) == 4)
        assert len(Spool(file)) == 2, "the first is published"
        publisher.end([3])
        wait_until(lambda: len(publisher.held) == 5)
        publisher.end([4])

        assert box.drain(LIMIT_S) == 0
    assert publisher.payloads == [b"1", b"2", b"3", b"2", b"3"]
    assert len(Spool(file)) == 0


def test_messages_of_before_are_published_though_their_file_could_be_opened_only_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, publisher = tmp_path / "spool.sqlite", SlowPublisher()
    before = Spool(file)
    before.extend([("topic", b"old 1"), ("topic", b"old 2")])
    before.close()
    with monkeypatch.context() as full:
        full.setattr(outbox_module, "_open", lambda _file: None)
        spool = Spool(file)
    with running(Outbox(spool=spool)) as box:
        box._keep_at = float("inf")
        for payload in (b"1", b"2"):
            box.put("topic", payload)
        box.attach(publisher)
        wait_until(lambda: len(publisher.held) == 2)
        box._keep_at = 0.0
        wait_until(lambda: len(spool) == 4)

        for number in range(6):
            wait_until(partial(lambda count: len(publisher.held) >= count, number + 1))
            publisher.end([number])

        assert box.drain(LIMIT_S) == 0
    assert publisher.payloads == [b"1", b"2", b"old 1", b"old 2", b"1", b"2"]


def test_what_comes_after_a_damaged_file_is_published_though_others_were_on_their_way(tmp_path: Path) -> None:
    file, publisher, safe = tmp_path / "spool.sqlite", SlowPublisher(), list[int]()
    spool = Spool(file)
    with running(Outbox(spool=spool)) as box:
        box._keep_at = float("inf")
        for number in range(3):
            box.put("topic", b"%d" % number)
        box.attach(publisher)
        wait_until(lambda: len(publisher.held) == 3)
        box._keep_at = 0.0
        wait_until(lambda: len(spool) == 3)
        assert spool._database is not None
        spool._database.executescript("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA shrink_memory")
        file.write_bytes(b"garbage!" * 2000)
        publisher.end([0])
        wait_until(lambda: not len(spool))
        for number in range(3, 6):
            box.put("topic", b"%d" % number, on_safe=partial(safe.append, number))
        wait_until(lambda: safe == [3, 4, 5])

        for number in range(1, 6):
            wait_until(partial(lambda count: len(publisher.held) >= count, number + 1))
            publisher.end([number])

        assert box.drain(LIMIT_S) == 0
    assert publisher.payloads == [b"%d" % number for number in range(6)]


def test_a_message_that_nothing_follows_after_all_leaves_within_a_moment(outbox: Outbox) -> None:
    publisher = FakePublisher()
    outbox.attach(publisher)

    outbox.put("topic", b"1", more=True)

    assert outbox.drain(LIMIT_S) == 0
    assert publisher.sent == [b"1"]


def test_what_is_published_at_once_never_touches_the_disk(tmp_path: Path) -> None:
    spool, safe = Spool(tmp_path / "spool.sqlite"), list[str]()
    with running(Outbox(spool=spool)) as box:
        box.attach(FakePublisher())

        box.put("topic", b"1", on_safe=lambda: safe.append("1"))

        assert box.drain(LIMIT_S) == 0
        wait_until(lambda: safe == ["1"])
    assert spool._database is not None
    assert spool._database.execute("SELECT seq FROM sqlite_sequence").fetchall() == []


def test_what_waits_is_on_disk_at_once_and_told_to_be_safe(tmp_path: Path) -> None:
    file, safe = tmp_path / "spool.sqlite", list[int]()
    with running(Outbox(spool=Spool(file))) as box:
        publisher = SlowPublisher()
        box.attach(publisher)
        for number in range(3):
            box.put("topic", b"%d" % number, on_safe=partial(safe.append, number))

        wait_until(lambda: safe == [0, 1, 2])

        assert len(Spool(file)) == 3, "another process would find them"
        for number in range(3):
            wait_until(partial(lambda count: len(publisher.held) >= count, number + 1))
            assert publisher.held[number][0] == b"%d" % number
            publisher.held[number][1].done.set()
        assert box.drain(LIMIT_S) == 0
    assert safe == [0, 1, 2]
    assert len(Spool(file)) == 0


def test_without_a_connection_messages_wait_on_disk_and_what_comes_later_behind_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    with running(Outbox(spool=spool)) as box:
        box.put("topic", b"1")
        box.put("topic", b"2")
        wait_until(lambda: len(spool) == 2)
        box.put("topic", b"3")
        publisher = FakePublisher()
        box.attach(publisher)

        assert box.drain(LIMIT_S) == 0
    assert publisher.sent == [b"1", b"2", b"3"]


def test_a_publication_that_fails_after_it_went_to_disk_is_tried_again_before_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite")
    with running(Outbox(spool=spool)) as box:
        slow, publisher = SlowPublisher(), FakePublisher()
        box.attach(slow)
        box.put("topic", b"1")
        box.put("topic", b"2")
        wait_until(lambda: len(spool) == 2)
        box.attach(publisher)
        slow.held[0][1].failure = IpcError("lost")
        slow.held[0][1].done.set()

        assert box.drain(LIMIT_S) == 0
    assert publisher.sent == [b"1", b"2"]


def test_on_a_full_disk_nothing_is_called_safe_before_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    safe, publisher = list[int](), SlowPublisher()
    with running(Outbox(spool=Spool(tmp_path / "file" / "spool.sqlite"))) as box:
        box.attach(publisher)
        box.put("topic", b"1", on_safe=lambda: safe.append(1))
        wait_until(lambda: box._keep_at > 0)  # the disk was tried

        assert safe == []
        publisher.held[0][1].done.set()

        assert box.drain(LIMIT_S) == 0
        wait_until(lambda: safe == [1])


class FullDisk(Spool):
    """A spool that takes nothing while it is full."""

    full = True

    def extend(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        return not self.full and super().extend(messages)


def test_the_end_does_not_wait_for_a_pause_of_the_disk(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path / "spool.sqlite")
    with running(Outbox(spool=disk, clock=Clock())) as box:
        box.put("topic", b"1")
        wait_until(lambda: box._keep_at > 0)  # the disk was tried, and is left alone for a while
        disk.full = False

    assert len(Spool(tmp_path / "spool.sqlite")) == 1


def test_pauses_of_the_disk_begin_anew_once_it_takes_something(tmp_path: Path) -> None:
    disk, pauses = FullDisk(tmp_path / "spool.sqlite"), Pauses()
    box = Outbox(spool=disk)
    box._keep_pauses = pauses  # type: ignore[assignment]
    with running(box):
        box.put("topic", b"1")
        wait_until(lambda: len(pauses.asked) > 1)
        disk.full = False
        wait_until(lambda: len(disk) == 1)
        grown = len(pauses.asked)
        disk.full = True
        box.put("topic", b"2")
        wait_until(lambda: len(pauses.asked) > grown)

    assert pauses.asked[: grown + 1] == [*range(1, grown + 1), 1]


def test_what_is_left_at_the_end_is_on_disk(tmp_path: Path) -> None:
    with running(Outbox(spool=Spool(tmp_path / "spool.sqlite"))) as box:
        box.put("topic", b"1")

    assert len(Spool(tmp_path / "spool.sqlite")) == 1


def test_an_error_of_who_is_told_does_not_end_the_outbox(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("no such folder")

    outbox.attach(FakePublisher())
    outbox.put("topic", b"1", on_safe=fail)
    outbox.put("topic", b"2")

    assert outbox.drain(LIMIT_S) == 0
    assert "after the answer on topic was safe" in caplog.text
