"""What ends an MQTT session, and what a client is sent."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.twin_greengrass.device import Device, _TunnelledClient, connected, make_device
from tests.twin_greengrass.started_cloud import Cloud

LIMIT_S = 30.0


@pytest.fixture
def device(cloud: Cloud, tmp_path: Path) -> Device:
    return make_device(cloud, tmp_path / "device")


@pytest.mark.parametrize("end", ["REVOKED", "INACTIVE", "deleted"])
def test_the_connection_of_a_certificate_that_is_none_any_more_ends(cloud: Cloud, device: Device, end: str) -> None:
    iot = cloud.client("iot")
    identifier = device.certificate_arn.rpartition("/")[2]
    with connected(device, jobs=False) as session:
        lost: queue.Queue[None] = queue.Queue()
        session.client.on_disconnect = lambda *_: lost.put(None)

        if end == "deleted":
            iot.detach_thing_principal(thingName=device.thing, principal=device.certificate_arn)
            for policy in iot.list_attached_policies(target=device.certificate_arn)["policies"]:
                iot.detach_policy(policyName=policy["policyName"], target=device.certificate_arn)
        iot.update_certificate(certificateId=identifier, newStatus="INACTIVE" if end == "deleted" else end)
        if end == "deleted":
            iot.delete_certificate(certificateId=identifier)

        lost.get(timeout=LIMIT_S)


def test_a_filter_that_is_subscribed_to_twice_brings_one_copy(device: Device) -> None:
    with connected(device, jobs=False) as session:
        for _ in range(3):
            session.subscribe("a/b")
        session.publish("a/b", {"n": 1})
        session.publish("a/b", {"n": 2})

        assert [session.next().document["n"] for _ in range(2)] == [1, 2]
        session.client.unsubscribe("a/b")
        session.subscribe("c")
        session.publish("a/b", {"n": 3})
        session.publish("c", {"n": 4})
        assert session.next().document["n"] == 4


@pytest.fixture
def small_client(device: Device) -> Iterator[tuple[Any, queue.Queue[bytes]]]:
    """An MQTT 5 client that takes packets of at most 200 bytes."""
    client = _TunnelledClient(CallbackAPIVersion.VERSION2, client_id=device.thing, protocol=mqtt.MQTTv5)
    client.proxy_port = device.cloud.proxy_port
    client.tls_set_context(device.tls())
    heard: queue.Queue[bytes] = queue.Queue()
    ready: queue.Queue[None] = queue.Queue()
    client.on_message = lambda _c, _u, message: heard.put(bytes(message.payload))

    def subscribe(*_: Any) -> None:
        client.subscribe("a/b", qos=1)

    client.on_connect = subscribe
    client.on_subscribe = lambda *_: ready.put(None)
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = 200
    client.connect(device.data_host, 8883, keepalive=30, properties=properties)
    client.loop_start()
    ready.get(timeout=LIMIT_S)
    yield client, heard
    client.disconnect()
    client.loop_stop()


def test_a_packet_that_a_client_cannot_take_is_not_sent(small_client: tuple[Any, queue.Queue[bytes]]) -> None:
    client, heard = small_client
    # Fixed header 3, topic 2 + 3, packet id 2, no properties 1 byte.
    fits = b"x" * (200 - 3 - 5 - 2 - 1)

    for payload in (b"1", fits, fits + b"x", b"2"):
        client.publish("a/b", payload, qos=1).wait_for_publish(LIMIT_S)

    assert [heard.get(timeout=LIMIT_S) for _ in range(3)] == [b"1", fits, b"2"]
