"""The broker for client devices: paho as its client, and clients that keep to no rule."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core_device.local_broker import Local, local_broker
from twin.core_device.client_devices import packets
from twin.core_device.client_devices.broker import Limits
from twin.core_device.client_devices.packets import MalformedError, Refusal

Scenario = Callable[[Local], Awaitable[None]]


def run(folder: Path, scenario: Scenario, limits: Limits | None = None) -> None:
    async def main() -> None:
        async with local_broker(folder, limits) as local:
            await scenario(local)

    asyncio.run(main())


def connect(client_id: str = "raw", level: int = 4) -> bytes:
    body = b"\x00\x04MQTT" + bytes((level, 2, 0, 0)) + len(client_id).to_bytes(2, "big") + client_id.encode()
    return bytes((0x10, len(body))) + body


def subscribe(*topic_filters: str) -> bytes:
    body = b"\x00\x01" + b"".join(len(name).to_bytes(2, "big") + name.encode() + b"\x01" for name in topic_filters)
    return packets._packet(0x82, body)


DEEP = "/" * 64


def test_messages_reach_subscribers_at_the_lower_qos_and_no_one_else(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        camera, screen = await local.client("camera-1"), await local.client("screen-1")
        assert [await screen.subscribe("site/+/out", 1), await screen.subscribe("site/#", 2)] == [1, 2]

        for qos in (0, 1, 2):
            await camera.publish("site/a/out", f"q{qos}", qos)
        await camera.publish("elsewhere", "x", 1)
        await camera.publish("$site/a", "x", 1)
        await camera.publish("site/b", "end", 2)

        # Filters that overlap are one delivery.
        assert await screen.messages(4) == [
            ("site/a/out", b"q0"),
            ("site/a/out", b"q1"),
            ("site/a/out", b"q2"),
            ("site/b", b"end"),
        ]
        assert [message.qos for message in screen.received] == [0, 1, 2, 2]
        assert not camera.received
        while local.broker.held_bytes:  # what is acknowledged is let go
            await asyncio.sleep(0.01)
        for client in (camera, screen):
            await client.close()

    run(tmp_path, scenario)


def test_the_policies_decide_and_a_refused_message_is_dropped(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        camera, stranger = await local.client("camera-1"), await local.client("stranger-1")
        assert stranger.connected[0] == "Not authorized"
        heard: list[str] = []
        local.broker.listen("#", lambda message: heard.append(message.topic))

        assert [await camera.subscribe("secret"), await camera.subscribe("#")] == [0x80, 1]
        await camera.publish("secret", "x")
        await camera.publish("open", "x")

        assert await camera.messages(1) == [("open", b"x")]
        assert heard == ["open"]
        assert len(local.gate.certificates[0]) > 100
        for client in (camera, stranger):
            await client.close()

    run(tmp_path, scenario)


def test_refusals_are_logged_ever_more_rarely(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(local: Local) -> None:
        camera = await local.client("camera-1")
        for _ in range(50):
            await camera.subscribe("secret")
            await camera.publish("secret", "x")
        await camera.close()

    run(tmp_path, scenario)

    assert sum("camera-1 may not" in record.getMessage() for record in caplog.records) == 7


def test_a_session_that_is_kept_gets_what_came_meanwhile_within_its_bound(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        first = await local.client("camera-1", clean=False)
        await first.subscribe("a", 1)
        await first.close()
        while local.broker.connected:
            await asyncio.sleep(0.01)

        for number in range(8):
            local.broker.publish("a", str(number).encode())
        again = await local.client("camera-1", clean=False)

        assert await again.messages(5) == [("a", str(number).encode()) for number in range(5)]
        assert again.present
        await again.close()
        while local.broker.connected:
            await asyncio.sleep(0.01)
        anew = await local.client("camera-1", clean=True)
        local.broker.publish("a", b"nobody")
        await anew.subscribe("b")
        local.broker.publish("b", b"x")
        assert await anew.messages(1) == [("b", b"x")]
        assert not anew.present
        await anew.close()

    run(tmp_path, scenario, Limits(queue=5))


def test_retained_messages_wills_and_a_second_connection_of_an_id(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        camera = await local.client("camera-1", will=("gone", "camera-1"))
        await camera.publish("state", "on", 1, retain=True)
        screen = await local.client("screen-1")
        await screen.subscribe("+", 1)
        assert await screen.messages(1) == [("state", b"on")]
        assert screen.received[0].retain

        twice = await local.client("camera-1")

        await camera.until_lost()
        await camera.close()  # or it connects anew within a second, and puts out the other
        assert await screen.messages(2) == [("state", b"on"), ("gone", b"camera-1")]
        await twice.publish("state", "", 1, retain=True)
        late = await local.client("late-1")
        await late.subscribe("#", 1)
        await twice.publish("x", "y")
        assert await late.messages(1) == [("x", b"y")]
        for client in (twice, screen, late):
            await client.close()

    run(tmp_path, scenario)


def test_clients_come_back_after_a_restart_with_another_certificate_and_are_delivered_what_waited(
    tmp_path: Path,
) -> None:
    async def scenario(local: Local) -> None:
        camera = await local.client("camera-1", clean=False)
        await camera.subscribe("a", 1)
        port = local.broker.port or 0
        before = await shown(local)

        await local.broker.stop()
        local.broker.publish("a", b"while away")
        await local.start(port)

        await camera.until_connected(2)
        assert await camera.messages(1) == [("a", b"while away")]
        assert await shown(local) != before
        await camera.close()

    run(tmp_path, scenario)


def read(secured: ssl.SSLSocket) -> bytes:
    """All that the broker says until it closes the connection, in whatever way."""
    heard = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := secured.recv(4096):
            heard += chunk
    return heard


def said(local: Local, sent: bytes, *, certificate: bool = True) -> bytes:
    """What the broker answers a client to these bytes."""
    with contextlib.suppress(ConnectionError, ssl.SSLError), local.raw(certificate=certificate) as secured:
        secured.sendall(sent)
        return read(secured)
    return b""


async def shown(local: Local) -> bytes | None:
    with await asyncio.to_thread(local.raw) as secured:
        return secured.getpeercert(binary_form=True)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + bytes(100),
        b"\x00\x00",
        b"\xf0\x00",
        b"\x10\xff\xff\xff\xff\x01",
        b"\x10\xff\xff\xff\x7f",  # 256 MiB announced
        b"\x10\x02\x00\x09",
        b"\x30\x05\x00\x01a\x00\x00",  # PUBLISH before CONNECT
        connect() + connect(),
        connect() + b"\x36\x05\x00\x01a\x00\x01",  # QoS 3
        connect() + b"\x30\x04\x00\x02a+",
        connect() + b"\x80\x05\x00\x01\x00\x00\x00",  # SUBSCRIBE without its flags
        connect() + b"\x82\x06\x00\x01\x00\x01#\x03",
        connect() + b"\x82\x02\x00\x01",
        connect() + b"\x82\x07\x00\x01\x00\x02a#\x00",
        connect() + b"\x32\x05\x00\x01a\x00\x00",  # id 0
        connect() + b"\x30\x04\x00\x02\xff\xfe",
        connect() + b"\xc0\x01\x00",
        connect() + b"\x90\x02\x00\x01",
        connect() + b"\x30\x42\x00\x40" + DEEP.encode(),
        connect() + subscribe(DEEP),
        connect() + subscribe(*["a"] * 101),  # each is looked up among all that is retained
    ],
)
def test_a_client_that_breaks_a_rule_is_disconnected_and_the_broker_goes_on(tmp_path: Path, sent: bytes) -> None:
    async def scenario(local: Local) -> None:
        assert (await asyncio.to_thread(said, local, sent))[:4] in (b"", packets.connack(Refusal.ACCEPTED))
        well = await local.client("camera-1")
        await well.subscribe("a")
        await well.publish("a", "x")
        assert await well.messages(1) == [("a", b"x")]
        await well.close()
        assert "raw" not in local.broker.sessions

    run(tmp_path, scenario)


def test_mqtt_5_and_a_client_id_that_is_no_things_name_are_refused_in_words(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        for sent, refusal in (
            (connect(level=5) + b"\x00", Refusal.PROTOCOL),
            (connect(""), Refusal.IDENTIFIER),
            (connect("a\nb: forged"), Refusal.IDENTIFIER),
            (connect("stranger"), Refusal.NOT_AUTHORIZED),
        ):
            assert await asyncio.to_thread(said, local, sent) == packets.connack(refusal)
        assert await asyncio.to_thread(said, local, connect(), certificate=False) == b""

    run(tmp_path, scenario)


def test_one_client_too_many_is_turned_away(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        held = [await asyncio.to_thread(local.raw) for _ in range(3)]

        assert await asyncio.to_thread(said, local, connect()) == b""
        assert len(local.broker._connections) == 3
        for secured in held:
            secured.close()

    run(tmp_path, scenario, Limits(connections=3, handshake_s=60))


def test_silent_clients_are_turned_away(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        for _ in range(3):
            assert await asyncio.to_thread(said, local, b"") == b""
        while local.broker._connections:
            await asyncio.sleep(0.01)

    run(tmp_path, scenario, Limits(handshake_s=0.5))


def test_a_client_that_is_silent_beyond_its_keep_alive_is_ended_and_its_will_sent(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        screen = await local.client("screen-1")
        await screen.subscribe("gone")
        body = b"\x00\x04MQTT\x04\x06\x00\x01" + b"\x00\x06silent" + b"\x00\x04gone" + b"\x00\x01x"
        began = asyncio.get_running_loop().time()

        heard = await asyncio.to_thread(said, local, bytes((0x10, len(body))) + body)

        # One and a half times the second that it has promised.
        assert asyncio.get_running_loop().time() - began >= 1.5
        assert heard == packets.connack(Refusal.ACCEPTED)
        assert await screen.messages(1) == [("gone", b"x")]
        assert "silent" not in local.broker.sessions
        await screen.close()

    run(tmp_path, scenario)


def test_a_client_that_reads_nothing_costs_no_more_than_its_bounds(tmp_path: Path) -> None:
    limits = Limits(queue=50, queue_bytes=1 << 20, unread_bytes=64 << 10)

    async def scenario(local: Local) -> None:
        secured = await asyncio.to_thread(local.raw)
        secured.sendall(connect("deaf") + b"\x82\x06\x00\x01\x00\x01a\x01")
        while "a" not in getattr(local.broker.sessions.get("deaf"), "filters", {}):
            await asyncio.sleep(0.02)
        session = local.broker.sessions["deaf"]

        for _ in range(400):
            local.broker.publish("a", bytes(60_000))
            await asyncio.sleep(0)

        assert session.waiting_bytes <= limits.queue_bytes
        assert session.connection is not None
        assert session.connection.unread_bytes() <= limits.unread_bytes + 70_000
        assert session.dropped > 100  # what the kernel's buffers take is the machine's matter
        secured.close()

    run(tmp_path, scenario, limits)


def test_what_waits_for_all_clients_has_one_bound_and_those_who_keep_up_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(held_bytes=50_000)

    async def scenario(local: Local) -> None:
        broker = local.broker
        away = [await local.client(f"camera-{number}", clean=False) for number in range(4)]
        for each in away:
            await each.subscribe("a", 1)
            await each.close()
        screen = await local.client("screen-1")
        await screen.subscribe("a", 1)
        while broker.connected != ["screen-1"]:
            await asyncio.sleep(0.01)

        for number in range(20):
            broker.publish("a", bytes(4000) + str(number).encode())
            await screen.messages(number + 1)
            while broker.sessions["screen-1"].in_flight:
                await asyncio.sleep(0.01)
            assert broker.held_bytes <= limits.held_bytes

        # The newest are dropped, and the log says so once.
        kept = [[message.payload[4000:] for message in broker.sessions[each.client_id].waiting] for each in away]
        assert kept == [[b"0", b"1", b"2"]] * 3 + [[b"0", b"1"]]
        assert broker.held_bytes == sum(session.held_bytes for session in broker.sessions.values())
        (said,) = [each.getMessage() for each in caplog.records if "all client devices together" in each.getMessage()]
        assert "(12606 bytes)" in said

        # What is taken or forgotten makes room again.
        broker.end("camera-1", "is gone", forget=True)
        for number in (0, 2, 3):
            again = await local.client(f"camera-{number}", clean=False)
            await again.messages(len(kept[number]))
            while broker.sessions[again.client_id].held_bytes:
                await asyncio.sleep(0.01)
            await again.close()
        while broker.connected != ["screen-1"]:
            await asyncio.sleep(0.01)
        assert not broker.held_bytes
        broker.publish("a", b"x")
        assert [len(broker.sessions[each].waiting) for each in ("camera-0", "camera-2", "camera-3")] == [1, 1, 1]
        await screen.close()

    run(tmp_path, scenario, limits)


def test_what_cannot_be_worked_on_ends_its_connection_also_where_it_came_with_connect(tmp_path: Path) -> None:
    def fail(_message: packets.Message) -> None:
        raise RuntimeError("a receiver fails")

    async def scenario(local: Local) -> None:
        local.broker.listen("a", fail)

        heard = await asyncio.to_thread(said, local, connect() + b"\x30\x03\x00\x01a")

        assert heard == packets.connack(Refusal.ACCEPTED)
        while local.broker.connected:
            await asyncio.sleep(0.01)

    run(tmp_path, scenario)


def test_a_broker_that_stops_ends_clients_in_the_middle_of_tls(tmp_path: Path) -> None:
    async def scenario(local: Local) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", local.broker.port)
        while not local.broker._connections:
            await asyncio.sleep(0.01)

        await local.broker.stop()

        with pytest.raises(OSError):
            await writer.start_tls(local.tls(), server_hostname="127.0.0.1")
        writer.close()

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [("a", bytes(200_000)), ("a" * 1025, b""), ("a/+", b""), ("", b""), ("\ud800", b""), (DEEP, b"")],
)
def test_what_is_no_message_of_mqtt_is_not_sent_and_ends_nobody(tmp_path: Path, topic: str, payload: bytes) -> None:
    async def scenario(local: Local) -> None:
        screen = await local.client("screen-1")
        await screen.subscribe("#", 0)

        local.broker.publish(topic, payload)
        local.broker.publish("well", b"x")

        assert await screen.messages(1) == [("well", b"x")]
        assert screen.connected == ["Success"]
        await screen.close()

    run(tmp_path, scenario)


def test_a_packet_of_many_fields_is_read_in_one_pass() -> None:
    class Counted(bytes):
        copied = 0

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            Counted.copied += len(part) if isinstance(part, bytes) else 1
            return part

    body = Counted(b"\x00\x01" + b"\x00\x01a\x00" * 1000)

    packet = packets.decode(0x82, body)

    assert isinstance(packet, packets.Subscribe)
    assert len(packet.filters) == 1000
    assert Counted.copied == len(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_packets_or_malformed(data: bytes) -> None:
    buffer = bytearray(data)
    with contextlib.suppress(MalformedError):
        while taken := packets.take(buffer, 200):
            packets.decode(*taken)
    assert len(buffer) <= len(data)


@given(st.text(max_size=40), st.binary(max_size=300), st.integers(0, 2), st.booleans(), st.integers(1, 65535))
def test_a_message_is_read_as_it_was_written(topic: str, payload: bytes, qos: int, retain: bool, number: int) -> None:
    message = packets.Message("t/" + topic.translate(dict.fromkeys(map(ord, "+#\0"))), payload, qos, retain)
    try:
        message.topic.encode()
    except UnicodeEncodeError:
        return
    written = packets.publish(message, number if qos else None)

    taken = packets.take(bytearray(written), 4096)

    assert taken is not None
    assert packets.decode(*taken) == packets.Publish(message, number if qos else None)
