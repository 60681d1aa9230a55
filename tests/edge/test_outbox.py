import threading
import time
from collections.abc import Iterator

import pytest

from edge_inference.ipc_errors import IpcError, RefusedError
from edge_inference.outbox import Outbox


class FakePublisher:
    """Publishes into a list; raises what it was given first."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.sent: list[bytes] = []

    def publish(self, topic: str, payload: bytes) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent.append(payload)


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox(capacity=3, give_up_s=0.3)
    thread = threading.Thread(target=box.run, daemon=True)
    thread.start()
    yield box
    box.close()
    thread.join(5)
    assert not thread.is_alive()


def test_publishes_in_order_and_keeps_what_a_busy_device_refuses_for_now(outbox: Outbox) -> None:
    publisher = FakePublisher(IpcError("busy"), IpcError("busy"))
    for payload in (b"1", b"2", b"3"):
        assert outbox.put("topic", payload)

    outbox.attach(publisher)

    assert outbox.drain(5) == 0
    assert publisher.sent == [b"1", b"2", b"3"]
    assert outbox.dropped == 0


def test_drops_what_is_refused_for_good_and_goes_on(outbox: Outbox) -> None:
    publisher = FakePublisher(RefusedError("not in accessControl"))
    outbox.attach(publisher)

    outbox.put("topic", b"1")
    outbox.put("topic", b"2")

    assert outbox.drain(5) == 0
    assert (publisher.sent, outbox.dropped) == ([b"2"], 1)


def test_gives_up_on_a_message_that_blocks_the_others(outbox: Outbox) -> None:
    publisher = FakePublisher(*[IpcError("never")] * 1000)
    outbox.attach(publisher)
    outbox.put("topic", b"1")
    deadline = time.monotonic() + 5

    while not outbox.dropped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    publisher.failures.clear()
    outbox.put("topic", b"2")

    assert outbox.drain(5) == 0
    assert publisher.sent == [b"2"]


def test_keeps_its_messages_over_a_change_of_connection(outbox: Outbox) -> None:
    outbox.attach(FakePublisher(*[IpcError("connection lost")] * 1000))
    outbox.put("topic", b"1")
    outbox.attach(None)
    second = FakePublisher()

    outbox.attach(second)

    assert outbox.drain(5) == 0
    assert second.sent == [b"1"]


def test_a_full_outbox_drops_the_newest_counts_it_and_waits_no_longer_than_told(outbox: Outbox) -> None:
    for payload in (b"1", b"2", b"3"):
        outbox.put("topic", payload)

    started = time.monotonic()
    assert not outbox.put("topic", b"4")
    assert not outbox.put("topic", b"5", timeout_s=0.05)

    assert time.monotonic() - started < 3
    assert outbox.dropped == 2
    assert outbox.drain(0) == 3
