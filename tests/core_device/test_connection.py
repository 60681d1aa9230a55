"""The MQTT connection against a small broker, through TLS and a proxy."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core_device.small_broker import SmallBroker, running_broker
from tests.core_device.tls_identity import TlsIdentity, renew
from twin.core_device.cloud.connection import QUEUE_LIMIT_BYTES, Connection
from twin.core_device.cloud.mqtt_client import IN_FLIGHT_LIMIT
from twin.core_device.cloud.spool import PIECE_BYTES, Backlog, Spool
from twin.core_device.dialect import CLASSIC, LITE, Dialect
from twin.core_device.errors import Backoff, RequestRejectedError


def run(
    folder: Path,
    scenario: Callable[[SmallBroker, Connection], Awaitable[None]],
    packet_bytes: int | None = None,
    *,
    keeps_messages: bool = True,
    sends_properties: bool = True,
    spool: Path | None = None,
) -> None:
    async def main() -> None:
        broker = SmallBroker()
        async with running_broker(broker, folder) as configuration:
            connection = Connection(
                configuration,
                Backoff(0.05, 0.1),
                packet_bytes,
                keeps_messages=keeps_messages,
                sends_properties=sends_properties,
                spool=spool,
            )
            task = asyncio.create_task(connection.run())
            try:
                async with asyncio.timeout(60):
                    await scenario(broker, connection)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("packet_bytes", "arrives"), [(CLASSIC.packet_bytes, True), (LITE.packet_bytes, False)])
def test_a_packet_above_nucleus_lites_limit_drops_the_link(
    tmp_path: Path, packet_bytes: int | None, arrives: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        received: list[bytes] = []
        await connection.subscribe("a/b", 1, lambda _, payload: received.append(payload))

        broker.send("a/b", b"x" * 4_900)
        await until(lambda: received)
        broker.send("a/b", b"x" * 5_100)

        if arrives:
            await until(lambda: len(received) == 2)
        else:
            await until(lambda: len(broker.client_ids) == 2)  # it has connected again
            assert len(received) == 1
            assert "nucleus lite takes at most 5000" in caplog.text

    run(tmp_path, scenario, packet_bytes)


def test_connects_through_the_proxy_as_the_thing(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()

        assert broker.client_ids == ["thing-1"]

    run(tmp_path, scenario)


def test_a_new_certificate_and_key_are_shown_at_the_next_connect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        identity = TlsIdentity(tmp_path / "tls")
        key = identity.folder / "device.key"
        old = key.read_bytes()
        serial = renew(identity)
        new = key.read_bytes()

        # Between the two files of a rotation a connection is lost: neither an old nor a new identity is whole.
        key.write_bytes(old)
        broker.drop_clients()
        await until(lambda: "KEY_VALUES_MISMATCH" in caplog.text.upper().replace(" ", "_"))
        key.write_bytes(new)
        await until(lambda: len(broker.certificates) == 2)
        await connection.connected.wait()

        assert broker.certificates[1] == serial != broker.certificates[0]
        assert broker.client_ids == ["thing-1", "thing-1"]

    run(tmp_path, scenario)


def test_receivers_of_one_filter_share_a_subscription_until_the_last_leaves(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        first: list[bytes] = []
        second: list[bytes] = []
        end_first = await connection.subscribe("a/+", 1, lambda _, payload: first.append(payload))
        end_second = await connection.subscribe("a/+", 1, lambda _, payload: second.append(payload))

        broker.send("a/b", b"1")
        await until(lambda: second)
        end_first()
        broker.send("a/b", b"2")
        await until(lambda: len(second) == 2)
        end_second()
        await asyncio.sleep(0.1)
        broker.send("a/b", b"3")
        await asyncio.sleep(0.1)

        assert broker.subscribed == ["a/+"]
        assert (first, second) == ([b"1"], [b"1", b"2"])

    run(tmp_path, scenario)


def test_subscriptions_and_waiting_messages_survive_a_lost_connection(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        received: list[bytes] = []
        await connection.subscribe("a", 1, lambda _, payload: received.append(payload))
        broker.away = True
        broker.drop_clients()
        # While it connects, the client would send the message at once, before it subscribes again.
        await until(lambda: not connection.connected.is_set() and connection._client.socket() is None)

        connection.publish("a", b"while away", 1)
        broker.away = False
        await until(lambda: received)

        assert received == [b"while away"]
        assert broker.subscribed == ["a", "a"]

    run(tmp_path, scenario)


@pytest.mark.parametrize(("dialect", "sent"), [(CLASSIC, True), (LITE, False)])
def test_lite_drops_properties_and_the_retain_flag(tmp_path: Path, dialect: Dialect, sent: bool) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()

        connection.publish("a/b", b"x", 1, {"retain": True, "contentType": "text/plain"})
        with pytest.raises(RequestRejectedError, match="MQTT property"):
            connection.publish("a/b", b"x", 1, {"messageExpiryIntervalSeconds": "soon"})
        await until(lambda: broker.published)

        ((retained, bytes_of_properties),) = broker.extras
        assert (retained, bytes_of_properties > 0) == (sent, sent)

    run(tmp_path, scenario, sends_properties=dialect.sends_properties)


def test_nucleus_lite_refuses_messages_while_it_is_not_connected(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        received: list[bytes] = []
        await connection.subscribe("a", 1, lambda _, payload: received.append(payload))
        broker.away = True
        broker.drop_clients()
        await until(lambda: not connection.connected.is_set())

        with pytest.raises(RequestRejectedError, match="nucleus lite keeps no messages: try again later"):
            connection.publish("a", b"while away", 1)
        broker.away = False
        await connection.connected.wait()
        connection.publish("a", b"tried again", 1)
        await until(lambda: received)

        assert received == [b"tried again"]

    run(tmp_path, scenario, keeps_messages=LITE.keeps_messages)


def test_a_refused_subscription_is_an_error_and_is_not_restored(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        broker.refused_filters = {"secret"}

        with pytest.raises(RequestRejectedError, match="refused"):
            await connection.subscribe("secret", 1, lambda _t, _p: None)
        broker.refused_filters = set()
        broker.drop_clients()
        await until(lambda: len(broker.client_ids) == 2)
        await asyncio.sleep(0.1)

        assert broker.subscribed == []

    run(tmp_path, scenario)


def test_messages_that_wait_for_the_cloud_have_a_bound(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        payload = bytes(128 << 10)
        for _ in range(QUEUE_LIMIT_BYTES // len(payload) - 1):
            connection.publish("a", payload, 1)

        with pytest.raises(RequestRejectedError, match="wait for the cloud already"):
            connection.publish("a", payload, 1)

    run(tmp_path, scenario)


MESSAGES = [("a", b"%d" % number) for number in range(5)]


def test_a_cloud_that_dies_before_it_acknowledges_gets_the_messages_again_in_order(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        broker.acknowledges = False
        for topic, payload in MESSAGES:
            await connection.deliver(topic, payload, 1)
        await until(lambda: broker.published == MESSAGES)

        broker.drop_clients()
        broker.acknowledges = True
        await until(lambda: broker.published == MESSAGES * 2)
        await connection.deliver("a", b"next", 1)
        await until(lambda: broker.published[-1] == ("a", b"next") and not connection._queued)

    run(tmp_path, scenario, spool=tmp_path / "spool.sqlite")


def test_what_comes_before_the_cloud_has_taken_the_connection_is_sent_behind_what_waits(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        broker.acknowledges = False
        for topic, payload in MESSAGES:
            await connection.deliver(topic, payload, 1)
        await until(lambda: broker.published == MESSAGES)

        broker.accepts, broker.acknowledges = False, True
        broker.drop_clients()
        await until(lambda: len(broker.client_ids) == 2)
        await connection.deliver("a", b"next", 1)
        await asyncio.sleep(0.1)
        broker.accept()
        await until(lambda: not connection._queued)

        assert broker.published == [*MESSAGES, *MESSAGES, ("a", b"next")]

    run(tmp_path, scenario, spool=tmp_path / "spool.sqlite")


@pytest.mark.parametrize(("dialect", "sent"), [(CLASSIC, True), (LITE, False)])
def test_what_a_killed_device_had_taken_is_sent_by_the_next_one_in_order(
    tmp_path: Path, dialect: Dialect, sent: bool
) -> None:
    spool = tmp_path / "spool.sqlite"

    async def dies(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        await connection.deliver("a", b"acknowledged", 1)
        await until(lambda: not connection._queued)
        broker.acknowledges = False
        for topic, payload in MESSAGES:
            await connection.deliver(topic, payload, 1, {"contentType": "text/plain"})
        connection._spool = None  # as SIGKILL: nothing is tidied, nothing is closed

    async def dies_again(broker: SmallBroker, connection: Connection) -> None:
        broker.acknowledges = False
        await until(lambda: len(broker.published) >= len(MESSAGES))
        connection._spool = None

    async def lives(broker: SmallBroker, connection: Connection) -> None:
        if dialect is CLASSIC:
            await connection.deliver("a", b"new", 1)
        await until(lambda: broker.published and not connection._queued)

        kept = [message for message in broker.published if message[1] not in (b"acknowledged", b"new")]
        assert kept == MESSAGES
        assert broker.published[-1] == (("a", b"new") if dialect is CLASSIC else MESSAGES[-1])
        assert [size > 0 for _, size in broker.extras][-2] == sent

    async def has_nothing_left(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        await connection.deliver("a", b"last", 1)
        await until(lambda: not connection._queued)

        assert broker.published == [("a", b"last")]

    for scenario in (dies, dies_again, lives, has_nothing_left):
        run(
            tmp_path,
            scenario,
            keeps_messages=dialect.keeps_messages,
            sends_properties=dialect.sends_properties,
            spool=spool,
        )


def test_on_a_full_disk_the_clouds_acknowledgement_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / "spool.sqlite"

    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        assert connection._spool is not None
        assert connection._spool._database is not None
        connection._spool._database.execute("PRAGMA max_page_count=3")  # SQLITE_FULL, as a full disk
        large = bytes(20_000)
        await connection.deliver("a", large, 1)

        assert broker.published == [("a", large)]
        assert "cannot be kept" in caplog.text
        await connection.deliver("a", b"room again", 1)  # the file is opened anew
        broker.acknowledges = False
        monkeypatch.setattr("twin.core_device.cloud.connection._ACKNOWLEDGE_LIMIT_S", 0.2)
        connection._spool._database.execute("PRAGMA max_page_count=3")
        with pytest.raises(RequestRejectedError, match="not acknowledged it in 0 s: make room, and try again"):
            await connection.deliver("a", large, 1)

    run(tmp_path, scenario, spool=spool)


@pytest.mark.parametrize(("content", "kept"), [(b"no database" * 100, False), (None, True)])
def test_only_a_damaged_spool_is_put_aside(tmp_path: Path, content: bytes | None, kept: bool) -> None:
    file = tmp_path / "spool.sqlite"
    spool = Spool(file)
    spool.add("a", b"1", {})
    spool.close()
    if content is None:
        file.with_name("spool.sqlite-wal").mkdir()  # a file cannot be made there: no database, no damage
    else:
        file.write_bytes(content)

    again = Spool(file)
    if content is None:
        assert again.add("a", b"2", {}) is None
        file.with_name("spool.sqlite-wal").rmdir()
        again = Spool(file)

    assert [message.payload for message in again.waiting()] == ([b"1"] if kept else [])
    assert again.add("a", b"3", {}) is not None
    assert file.with_name("spool.sqlite.damaged").exists() != kept


def test_a_spool_that_opens_late_takes_messages_behind_those_of_before(tmp_path: Path) -> None:
    file = tmp_path / "spool.sqlite"
    before = Spool(file)
    before.add("a", b"1", {})
    before.close()
    file.with_name("spool.sqlite-wal").mkdir()
    late = Spool(file)
    assert late.waiting() == []

    file.with_name("spool.sqlite-wal").rmdir()
    assert late.add("a", b"2", {}) is not None

    assert [message.payload for message in Spool(file).waiting()] == [b"1", b"2"]


def test_qos_0_is_refused_without_a_connection(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        with pytest.raises(RequestRejectedError, match="not connected"):
            connection.publish("a", b"", 0)

    run(tmp_path, scenario)


def test_a_payload_above_the_quota_is_refused(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()

        with pytest.raises(RequestRejectedError, match="at most 131072 bytes, got 131073"):
            connection.publish("a", bytes(131073), 1)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("topic", "taken"),
    [
        ("a" * 256, True),
        ("a" * 257, False),
        ("é" * 129, False),
        ("a/" * 7, True),
        ("a/" * 8, False),
        ("", False),
        ("$aws/rules/a_rule/" + "a/" * 7, True),
        ("$aws/rules/a_rule/" + "a/" * 8, False),
    ],
)
def test_a_topic_over_which_iot_core_would_end_the_connection_is_refused(
    tmp_path: Path, topic: str, *, taken: bool
) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        if not taken:
            with pytest.raises(RequestRejectedError, match="a topic must have 1 to 256 bytes and at most 7 slashes"):
                connection.publish(topic, b"", 1)
            with pytest.raises(RequestRejectedError, match="a topic must have"):
                await connection.deliver(topic, b"", 1)
            return
        connection.publish(topic, b"", 1)
        await until(lambda: not connection._queued)

    run(tmp_path, scenario)


@pytest.mark.parametrize("topic", ["a/+", "#", "a\0", "a\ud800"])
def test_a_topic_that_no_packet_may_have_is_refused(tmp_path: Path, topic: str) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        with pytest.raises(RequestRejectedError, match=r"a topic must be UTF-8 without \+, # and zero bytes"):
            await connection.deliver(topic, b"", 1)

    run(tmp_path, scenario)


@pytest.mark.parametrize("text", ["\ud800", "x" * 65_536])
@pytest.mark.parametrize("field", ["contentType", "responseTopic", "userProperties"])
def test_a_property_that_no_packet_can_hold_is_refused_and_the_connection_stays(
    tmp_path: Path, field: str, text: str
) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        value = [{"key": "k", "value": text}] if field == "userProperties" else text

        with pytest.raises(RequestRejectedError, match="an MQTT property is not valid"):
            await connection.deliver("a", b"refused", 1, {field: value})
        await connection.deliver("a", b"next", 1)
        await until(lambda: not connection._queued)

        assert broker.published == [("a", b"next")]
        assert len(broker.client_ids) == 1

    run(tmp_path, scenario)


@given(st.lists(st.integers(-1, 5000), max_size=80))
def test_a_backlog_gives_what_was_put_in_order_and_then_takes_no_memory(steps: list[int]) -> None:
    """Numbers put 26 times as many bytes, up to the longest payload; -1 takes one."""
    backlog, waiting = Backlog(), deque[bytes]()
    for number, step in enumerate(steps):
        if step >= 0:
            payload = bytes([number]) * (step * 26)
            backlog.put(payload)
            waiting.append(payload)
        elif waiting:
            assert backlog.take(len(waiting[0])) == waiting.popleft()
        assert sum(map(len, backlog._pieces)) <= sum(map(len, waiting)) + 2 * PIECE_BYTES
    while waiting:
        assert backlog.take(len(waiting[0])) == waiting.popleft()

    assert not backlog._pieces


def test_what_waits_for_the_cloud_comes_in_order_and_is_not_all_the_clients(tmp_path: Path) -> None:
    """A crowd's answers: each costs the client some 2 kB, whose memory would stay the device's for good."""
    crowd = [("a", b"%d" % number) for number in range(3 * IN_FLIGHT_LIMIT)]

    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        broker.acknowledges = False
        for topic, payload in crowd:
            await connection.deliver(topic, payload, 1)
        await until(lambda: len(broker.published) == IN_FLIGHT_LIMIT)

        assert len(connection._client._out_messages) == IN_FLIGHT_LIMIT
        broker.acknowledges = True
        broker.drop_clients()
        await until(lambda: not connection._queued)

        assert broker.published == crowd[:IN_FLIGHT_LIMIT] + crowd
        assert connection._queued_bytes == 0

    run(tmp_path, scenario, spool=tmp_path / "spool.sqlite")


def test_a_network_that_goes_while_it_connects_leaves_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_it = Connection._open
    began, gone, opened = threading.Event(), threading.Event(), threading.Event()

    def open_late(connection: Connection) -> None:
        began.set()
        assert gone.wait(30)
        open_it(connection)
        opened.set()

    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await until(began.is_set)
        connection.cut()
        gone.set()
        await until(opened.is_set)
        await asyncio.sleep(0.5)

        assert not connection.connected.is_set()
        assert connection._client.socket() is None
        connection.restore()
        await connection.connected.wait()
        assert broker.client_ids

    monkeypatch.setattr(Connection, "_open", open_late)
    run(tmp_path, scenario)


def test_a_receiver_that_left_while_it_subscribed_hears_nothing(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        left: list[bytes] = []
        stayed: list[bytes] = []
        broker.silent_filters = {"a"}
        leaving = asyncio.create_task(connection.subscribe("a", 1, lambda _, payload: left.append(payload)))
        await until(lambda: broker.subscribed)

        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        broker.silent_filters = set()
        await connection.subscribe("a", 1, lambda _, payload: stayed.append(payload))
        broker.send("a", b"1")
        await until(lambda: stayed)

        assert left == []

    run(tmp_path, scenario)


def test_what_the_cloud_has_acknowledged_makes_room_for_more(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        await connection.connected.wait()
        payload = bytes(128 << 10)
        count = QUEUE_LIMIT_BYTES // len(payload)
        for _ in range(2 * count):
            connection.publish("a", payload, 1)
            await until(lambda: not connection._queued)

        assert len(broker.published) == 2 * count

    run(tmp_path, scenario)


def test_the_waits_between_attempts_begin_anew_after_a_connection(tmp_path: Path) -> None:
    async def scenario(broker: SmallBroker, connection: Connection) -> None:
        def came(times: int) -> bool:
            return len(broker.client_ids) >= times

        for times in range(1, 6):
            # It may be connected again before anybody has seen it without a connection.
            await until(partial(came, times))
            await connection.connected.wait()
            broker.drop_clients()

        assert connection._backoff._attempts <= 1

    run(tmp_path, scenario)
