#!/bin/sh
# amqtt 0.12.1: a client that subscribes to a topic filter again, with another quality of service, is granted the new one and
# sent messages at the old one. In MQTT the second subscription replaces the first (3.1.1, MQTT-3.8.4-3), and the return code
# tells what was granted (MQTT-3.8.4-5). Who goes from 0 to 1 counts on acknowledged messages and gets none; an unsubscription
# in between helps.
# Seen with paho-mqtt 2.2.0, CPython 3.11 (messages published at 1):
#   first 0: granted 0, sent at 0; again 1: granted 1, sent at 0; after leaving 1: granted 1, sent at 1;
#   again 0: granted 0, sent at 1
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check amqtt==0.12.1 paho-mqtt==2.2.0
timeout 60 "$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import logging
import queue
import socket

logging.disable(logging.CRITICAL)
import paho.mqtt.client as mqtt
from amqtt.broker import Broker

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}


def ask():
    connected, granted, left, arrived = (queue.Queue() for _ in range(4))
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "asks", protocol=mqtt.MQTTv311)
    client.on_connect = lambda *_: connected.put(True)
    client.on_subscribe = lambda _client, _data, _mid, codes, _properties: granted.put(codes[0].value)
    client.on_unsubscribe = lambda *_: left.put(True)
    client.on_message = lambda _client, _data, message: arrived.put(message.qos)
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.get(timeout=10)
    answers = []
    for quality in (0, 1, None, 1, 0):
        if quality is None:
            client.unsubscribe("line/+")
            left.get(timeout=10)
            continue
        client.subscribe("line/+", quality)
        said = granted.get(timeout=10)
        client.publish("line/count", "1", 1)
        answers.append((quality, said, arrived.get(timeout=10)))
    client.disconnect()
    client.loop_stop()
    return answers


async def main():
    broker = Broker({"listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}}, "plugins": anonymous})
    await broker.start()
    try:
        return await asyncio.to_thread(ask)
    finally:
        await broker.shutdown()


found = asyncio.run(main())
names = ("first", "again", "after leaving", "again")
print("; ".join(f"{name} {asked}: granted {said}, sent at {sent}" for name, (asked, said, sent) in zip(names, found)))
assert found == [(0, 0, 0), (1, 1, 0), (1, 1, 1), (0, 0, 1)]
PYTHON
