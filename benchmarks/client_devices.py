"""Memory of a core device with a broker and a hundred client devices that say something every second.

    .venv/bin/python -m benchmarks.client_devices [--clients 100] [--minutes 60] [--json benchmarks/client_devices.json]

A twin with one core device of the classic dialect. Its process is measured without AWS's components for client
devices, with them, and with all clients connected; each says something on a topic of its own once a second at QoS 1,
one hears all of it, and the bridge takes it to local topics. Ends with 1 if more than 40 MB come on top, if the second
half of the time adds more than 2 MB, or if a message is not acknowledged.
"""

import argparse
import asyncio
import json
import ssl
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
import psutil

from benchmarks.waiting import wait_for
from config.public_components import AUTH, BRIDGE, IP_DETECTOR, MOQUETTE, PUBLIC_COMPONENTS
from twin import lifecycle
from twin.core_device.client_devices import packets
from twin.devices.identity import certificate_authority, make_certificate
from twin.devices.membership import set_own_devices
from twin.ports import free_ports
from twin.process import device_pid, devices_folder
from twin.state import TwinState

CORE, GROUP = "device-01", "site"
MOST_MB, FLAT_MB = 40.0, 2.0
PAYLOAD = json.dumps({"temperature": 21.5, "note": "x" * 100}).encode()
LIMIT_S = 120.0


def components(port: int) -> dict[str, Any]:
    """AWS's four, with everything allowed to everybody."""
    everybody = {
        "formatVersion": "2021-03-05",
        "definitions": {"All": {"selectionRule": "thingName: client-*", "policyName": "All"}},
        "policies": {"All": {"All": {"operations": ["*"], "resources": ["*"]}}},
    }
    mapping = {"Said": {"topic": "said/+", "source": "LocalMqtt", "target": "Pubsub"}}
    merged: dict[str, Any] = {
        AUTH: {"deviceGroups": everybody},
        MOQUETTE: {"moquette": {"ssl_port": str(port)}},
        BRIDGE: {"mqttTopicMapping": mapping},
        IP_DETECTOR: {"defaultPort": port},
    }
    return {
        name: {
            "componentVersion": PUBLIC_COMPONENTS[name].version,
            "configurationUpdate": {"merge": json.dumps(merge)},
        }
        for name, merge in merged.items()
    }


class Client:
    """A client device: as little memory and time as it takes, so that a hundred fit beside what is measured."""

    def __init__(self, name: str) -> None:
        self.name, self.sent, self.heard = name, 0, 0
        self.took_ms: list[float] = []
        self._buffer = bytearray()

    async def open(self, port: int, context: ssl.SSLContext, listens: str = "") -> None:
        """Connect, and subscribe."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        name = self.name.encode()
        body = b"\x00\x04MQTT\x04\x02\x00\x3c" + len(name).to_bytes(2, "big") + name
        self._writer.write(bytes((0x10, len(body))) + body)
        answer = await self._next()
        if answer != (0x20, bytes((0, 0))):
            raise RuntimeError(f"{self.name} is refused: {answer}")
        if listens:
            topic = listens.encode()
            body = b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\x01"
            self._writer.write(bytes((0x82, len(body))) + body)
            await self._next()

    async def say(self) -> None:
        """One message of QoS 1, and its acknowledgement."""
        self.sent += 1
        began = time.perf_counter()
        message = packets.Message(f"said/{self.name}", PAYLOAD, 1)
        self._writer.write(packets.publish(message, self.sent % 65535 + 1))
        while (await self._next())[0] >> 4 != packets.Kind.PUBACK:
            pass
        self.took_ms.append((time.perf_counter() - began) * 1000)

    async def listen(self) -> None:
        """Take what comes, and acknowledge it."""
        while True:
            first, body = await self._next()
            if first >> 4 == packets.Kind.PUBLISH:
                self.heard += 1
                at = 2 + int.from_bytes(body[:2], "big")
                self._writer.write(bytes((0x40, 2)) + body[at : at + 2])

    async def keep_alive(self) -> None:
        """What a client says that says nothing else."""
        while True:
            await asyncio.sleep(20)
            self._writer.write(b"\xc0\x00")

    async def _next(self) -> tuple[int, bytes]:
        while (taken := packets.take(self._buffer, 1 << 20)) is None:
            chunk = await asyncio.wait_for(self._reader.read(1 << 16), LIMIT_S)
            if not chunk:
                raise ConnectionError(f"{self.name} was disconnected")
            self._buffer += chunk
        return taken


def prepare(state: TwinState, names: list[str], folder: Path) -> ssl.SSLContext:
    """One certificate for all clients, each of which is a thing that is associated with the core."""
    iot, greengrass = (boto3.client(name, **state.client_arguments()) for name in ("iot", "greengrassv2"))
    iot.create_policy(
        policyName="clients",
        policyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [{"Effect": "Allow", "Action": "greengrass:Discover", "Resource": "*"}],
            }
        ),
    )
    certificate = make_certificate(iot, "clients")
    for name in names:
        iot.create_thing(thingName=name)
        iot.attach_thing_principal(thingName=name, principal=certificate.arn)
    for start in range(0, len(names), 100):
        greengrass.batch_associate_client_device_with_core_device(
            coreDeviceThingName=CORE, entries=[{"thingName": name} for name in names[start : start + 100]]
        )
    (folder / "client.pem").write_text(certificate.pem + certificate.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the broker's memory is what is asked for
    context.load_cert_chain(folder / "client.pem")
    return context


def deployed(state: TwinState, wanted: dict[str, Any]) -> None:
    """Deploy to the core's group, and wait until it has succeeded."""
    greengrass = boto3.client("greengrassv2", **state.client_arguments())
    target = f"arn:aws:iot:{state.region}:{state.account}:thinggroup/{GROUP}"
    made = greengrass.create_deployment(targetArn=target, components=wanted)["deploymentId"]

    def done() -> bool:
        found = greengrass.list_effective_deployments(coreDeviceThingName=CORE)["effectiveDeployments"]
        return any(
            entry["deploymentId"] == made and entry["coreDeviceExecutionStatus"] == "SUCCEEDED" for entry in found
        )

    wait_for(done, "the deployment", LIMIT_S)


def resident_mb(state: TwinState) -> float:
    """Memory of the core device's process in RAM, MB."""
    pid = device_pid(devices_folder(state.home) / CORE)
    return float(psutil.Process(pid).memory_info().rss / 1e6) if pid else 0.0


async def talk(
    state: TwinState, port: int, context: ssl.SSLContext, names: list[str], seconds: float
) -> dict[str, Any]:
    """Let all of them talk for so long; memory every second."""
    clients = [Client(name) for name in names]
    listener = Client("client-listener")
    await listener.open(port, context, "said/+")
    for client in clients:
        await client.open(port, context)
    tasks = [asyncio.create_task(listener.listen()), asyncio.create_task(listener.keep_alive())]
    began, memory = time.monotonic(), []

    async def talks(client: Client, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while time.monotonic() - began < seconds:
            started = time.monotonic()
            await client.say()
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - started)))

    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(talks(client, number / len(clients)))
        while time.monotonic() - began < seconds:
            await asyncio.sleep(1.0)
            memory.append(resident_mb(state))
    await asyncio.sleep(1.0)
    for task in tasks:
        task.cancel()
    took = sorted(each for client in clients for each in client.took_ms)
    return {
        "sent": sum(client.sent for client in clients),
        "acknowledged": len(took),
        "heard by one": listener.heard,
        "puback_ms": {"p50": round(statistics.median(took), 2), "p99": round(took[int(len(took) * 0.99)], 2)},
        "memory": memory,
    }


def measure(folder: Path, clients: int, minutes: float) -> dict[str, Any]:
    """All of it."""
    state = lifecycle.start(folder / "home")
    try:
        greengrass = boto3.client("greengrassv2", **state.client_arguments())
        set_own_devices(state, 1, group=GROUP, dialect="classic")
        wait_for(lambda: greengrass.list_core_devices()["coreDevices"], "the core device", LIMIT_S)
        certificate_authority(state.gateway_url)
        names = [f"client-{number:03}" for number in range(clients)]
        context = prepare(state, [*names, "client-listener"], folder)
        time.sleep(5)
        without = resident_mb(state)
        (port,) = free_ports(1)
        deployed(state, components(port))
        time.sleep(5)
        alone = resident_mb(state)
        found = asyncio.run(talk(state, port, context, names, minutes * 60))
    finally:
        lifecycle.stop(folder / "home")
    memory = found.pop("memory")
    half = len(memory) // 2
    ends = statistics.median(memory[-10:])
    growth = ends - statistics.median(memory[half : half + 10])
    whole = found["sent"] == found["acknowledged"]
    return {
        "clients": clients, "minutes": minutes, **found,
        "memory_mb": {
            "without components": round(without, 1), "with them": round(alone, 1), "with clients": round(ends, 1),
            "more": round(ends - without, 1), "at most": MOST_MB, "second half": round(growth, 2), "flat": FLAT_MB,
        },
        "holds": whole and ends - without <= MOST_MB and growth <= FLAT_MB,
    }  # fmt: skip


def main() -> int:
    """Measure, print, and say whether it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=100, help="client devices (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of talk (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ew-") as scratch:
        found = measure(Path(scratch), options.clients, options.minutes)
    text = json.dumps(found, indent=2)
    sys.stdout.write(f"{text}\n")
    if options.json:
        options.json.write_text(f"{text}\n")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
