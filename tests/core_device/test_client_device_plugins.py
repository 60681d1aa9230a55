"""The parts that the core device plays, without a cloud: mistakes in their configuration, certificates in time."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509

from config.public_components import AUTH, BRIDGE, MOQUETTE, PUBLIC_COMPONENTS
from tests.core_device.tls_identity import make_identity
from twin.core_device.client_devices import authority, plugins
from twin.core_device.client_devices.authority import CertificateAuthority
from twin.core_device.client_devices.bridge import Bridge, Mapping
from twin.core_device.client_devices.broker import Broker
from twin.core_device.client_devices.packets import Message
from twin.core_device.client_devices.plugins import ClientDevices, Core
from twin.core_device.cloud.https import CloudHttp
from twin.core_device.components.configuration_store import ConfigurationStore
from twin.core_device.components.process import ComponentLog
from twin.core_device.components.recipe import Step
from twin.core_device.files import Layout
from twin.core_device.ipc.service import LocalTopics


class NoCloud:
    def client(self, *, identified: bool) -> Any:
        raise OSError("the line is cut")

    async def credentials(self) -> Any:
        raise OSError("the line is cut")


class OfflineDevice:
    """What the parts need of a core device whose line is cut."""

    def __init__(self, root: Path) -> None:
        identity = make_identity(root / "tls")
        self.layout = Layout(root)
        self.store = ConfigurationStore(self.layout.configuration_file)
        self.components: dict[str, Any] = {}
        self.token_exchange = NoCloud()
        self.connection = SimpleNamespace(connected=asyncio.Event(), subscribe=None, publish=None)
        nucleus = SimpleNamespace(data_endpoint="a.iot", data_plane_port=8443, region="us-east-1")
        system = SimpleNamespace(thing_name="core-1", root_ca_path=identity.folder / "ca.pem")
        self.configuration = SimpleNamespace(nucleus=nucleus, system=system)

    def parts(self) -> ClientDevices:
        return ClientDevices(cast(Core, self), LocalTopics(), cast(CloudHttp, NoCloud()))

    def configure(self, name: str, content: dict[str, Any]) -> None:
        self.store.merge(name, (), content, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            AUTH,
            {"deviceGroups": {"formatVersion": "1999"}},
            "deviceGroups.formatVersion must be 2021-03-05, got '1999'",
        ),
        (BRIDGE, {"mqttTopicMapping": {"A": {"topic": "a"}}}, "mqttTopicMapping.A.source must be one of LocalMqtt"),
        (MOQUETTE, {"moquette": {"ssl_port": "many"}}, "moquette.ssl_port must be a number, got 'many'"),
        (MOQUETTE, {"moquette": {"ssl_port": "nan"}}, "moquette.ssl_port must be a number, got 'nan'"),
        (MOQUETTE, {"moquette": {"ssl_port": True}}, "moquette.ssl_port must be a number, got True"),
    ],
)
def test_a_part_that_is_configured_wrongly_ends_with_the_mistake_as_its_last_output(
    tmp_path: Path, name: str, content: dict[str, Any], said: str
) -> None:
    async def main() -> tuple[int, str]:
        device = OfflineDevice(tmp_path)
        device.configure(name, content)
        output = ComponentLog(tmp_path / "log")
        running = await device.parts().spawn(name, output)(Step("run", "", 0.0, {}), "", {})
        async with asyncio.timeout(30):
            return await running.wait(), (tmp_path / "log").read_text()

    status, text = asyncio.run(main())

    assert status == 1
    assert said in text


@pytest.mark.parametrize("name", PUBLIC_COMPONENTS)
def test_each_component_of_aws_s_that_the_twin_knows_has_a_part(tmp_path: Path, name: str) -> None:
    async def main() -> Any:
        return OfflineDevice(tmp_path).parts().spawn(name, ComponentLog(tmp_path / "log"))

    assert callable(asyncio.run(main()))


def test_the_broker_runs_without_a_cloud_and_is_renewed_in_time_on_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A day of the certificate's life is a second here.
    monkeypatch.setattr(plugins, "CERTIFICATE_S", (1.5, 1.5, 1.5))
    monkeypatch.setattr(plugins, "RENEWED_BEFORE_S", 1.0)

    async def main() -> tuple[list[int], list[bytes]]:
        device = OfflineDevice(tmp_path)
        parts = device.parts()
        running = [
            await parts.spawn(name, ComponentLog(tmp_path / name))(Step("run", "", 0.0, {}), "", {})
            for name in (AUTH, MOQUETTE)
        ]
        ports: list[int] = []
        shown: list[bytes] = []
        async with asyncio.timeout(30):
            while len(set(shown)) < 3:
                if (port := parts.broker.port) is not None:
                    ports.append(port)
                    shown.append((tmp_path / "client_devices" / "server.pem").read_bytes())
                await asyncio.sleep(0.02)
        for part in running:
            await part.stop(5.0)
        assert parts.broker.port is None
        return ports, shown

    ports, shown = asyncio.run(main())

    assert len(set(ports)) == 1
    assert len(set(shown)) == 3


def test_an_authority_that_ends_soon_has_its_successor_before_the_first_certificate(tmp_path: Path) -> None:
    async def main() -> list[str]:
        parts = OfflineDevice(tmp_path).parts()
        (before,) = CertificateAuthority(tmp_path / "client_devices", "core-1", timedelta(days=20)).certificates
        running = [
            await parts.spawn(name, ComponentLog(tmp_path / name))(Step("run", "", 0.0, {}), "", {})
            for name in (AUTH, MOQUETTE)
        ]
        async with asyncio.timeout(30):
            while parts.broker.port is None:
                await asyncio.sleep(0.02)
        for part in running:
            await part.stop(5.0)
        return [before]

    (before,) = asyncio.run(main())

    again = CertificateAuthority(tmp_path / "client_devices", "core-1")
    assert again.certificates[1:] == [before]
    assert (tmp_path / "client_devices" / "server.pem").read_text().endswith(again.certificates[0])


def test_the_bridge_says_nothing_again_that_it_has_said_to_the_cloud(tmp_path: Path) -> None:
    class Echoing:
        def __init__(self) -> None:
            self.receivers: list[Any] = []
            self.said: list[tuple[str, bytes]] = []

        def publish(self, topic: str, payload: bytes, _qos: int) -> None:
            self.said.append((topic, payload))

        def arrives(self, topic: str, payload: bytes) -> None:
            for receiver in self.receivers:
                receiver(topic, payload)

        async def subscribe(self, _topic: str, _qos: int, receiver: Any) -> Any:
            self.receivers.append(receiver)
            return lambda: self.receivers.remove(receiver)

    heard: list[bytes] = []
    parts, connection, topics = OfflineDevice(tmp_path).parts(), Echoing(), LocalTopics()
    broker = Broker(parts)
    topics.subscribe("a.component", "a/b", False, lambda _topic, message: heard.append(cast(bytes, message)))
    bridge = Bridge(broker, topics, cast(Any, connection))
    ways = [("Up", "a/#", "LocalMqtt", "IotCore"), ("Down", "a/#", "IotCore", "LocalMqtt")]
    asyncio.run(bridge.open([Mapping(*way) for way in (*ways, ("In", "a/b", "IotCore", "Pubsub"))]))

    broker._distribute(Message("a/b", b"from a client"), from_client=True)
    for topic, payload in connection.said:
        connection.arrives(topic, payload)
    assert heard == []

    connection.arrives("a/b", b"from a client")
    connection.arrives("a/b", b"from the cloud")
    assert heard == [b"from a client", b"from the cloud"]


def test_an_authority_is_kept_followed_by_another_in_time_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "client_devices"
    first = CertificateAuthority(folder, "core-1")
    (only,) = first.certificates
    again = CertificateAuthority(folder, "core-1")
    assert (again.certificates, again.renew_if_due()) == ([only], False)
    assert not [path for path in (folder, *folder.iterdir()) if path.stat().st_mode & 0o077]

    short = CertificateAuthority(tmp_path / "short", "core-1", timedelta(hours=1))
    before = short.certificates
    end = x509.load_pem_x509_certificate(before[0].encode()).not_valid_after_utc
    for left, due in ((timedelta(minutes=31), False), (timedelta(minutes=29), True)):
        monkeypatch.setattr(authority, "_now", lambda left=left: end - left)
        assert short.renew_if_due() is due
    assert short.certificates[0] not in before
    monkeypatch.undo()

    (folder / "authority.pem").write_text("no key")
    assert CertificateAuthority(folder, "core-1").certificates != [only]


def test_the_brokers_certificate_names_its_hosts_and_ends_with_the_authority(tmp_path: Path) -> None:
    make_identity(tmp_path / "tls")
    authority = CertificateAuthority(tmp_path / "own", "core-1", timedelta(days=3))

    context = authority.server_context(
        ["127.0.0.1", "core.local", "127.0.0.1"], timedelta(days=7), tmp_path / "tls" / "ca.pem"
    )

    text = (tmp_path / "own" / "server.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(text)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each.value) for each in names] == ["localhost", "127.0.0.1", "core.local"]
    assert certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=4)
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_core_device_without_client_devices_loads_nothing_for_them() -> None:
    loaded = "sys.modules.keys() & {'cryptography', 'twin.core_device.client_devices.broker'}"
    script = f"import sys, twin.core_device.device; print(sorted({loaded}))"

    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == "[]"
