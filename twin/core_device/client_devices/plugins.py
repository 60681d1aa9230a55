"""The parts that the core device plays of AWS's client device components, each as long as its component runs."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Protocol

from config.public_components import AUTH, BRIDGE, EMQX, IP_DETECTOR, MOQUETTE
from twin.clock import CLOCK
from twin.core_device.cloud.connection import Connection
from twin.core_device.cloud.credentials import TokenExchange
from twin.core_device.cloud.https import CloudHttp
from twin.core_device.components.component import Component, State
from twin.core_device.components.configuration_store import ConfigurationStore
from twin.core_device.components.process import Output, Spawn
from twin.core_device.components.recipe import Step
from twin.core_device.configuration import Configuration
from twin.core_device.errors import Backoff, CoreDeviceError, RequestRejectedError
from twin.core_device.files import Layout
from twin.core_device.ipc.service import LocalTopics

from .authority import CertificateAuthority
from .bridge import Bridge, MappingError, parse_mappings
from .broker import Broker
from .client_connection import listen
from .device_auth import DeviceCloud, Identities, Permissions, PermissionsError, UnreachableError, parse_permissions

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
"""Where the broker listens and what the IP detector reports, whatever is configured: a twin is for one machine."""

PORT = 8883
CERTIFICATE_S = (2 * 86_400, 7 * 86_400, 10 * 86_400)
"""Life of the broker's certificate: shortest, usual, longest (the component's documentation)."""

RENEWED_BEFORE_S = 86_400.0
REFRESH_S = 5.0
"""So often the device asks who is still associated, while clients are connected; AWS's component asks once a day."""

REFRESH_SHARE = 0.05
"""Of the time, at most: a list of thousands takes a hundred requests."""

_LOOK_S = 3600.0
_AUTH_LIMIT_S = 30.0


class PluginError(CoreDeviceError):
    """A component cannot do its part; the text says what in its configuration is wrong."""


class Core(Protocol):
    """What the parts need of their core device."""

    configuration: Configuration
    layout: Layout
    store: ConfigurationStore
    components: Mapping[str, Component]
    connection: Connection
    token_exchange: TokenExchange


class ClientDevices:
    """What the five components share: authority, identities, permissions, broker.

    Args:
        device: The core device.
        topics: Its local topics.
        http: Its way to the cloud.
    """

    def __init__(self, device: Core, topics: LocalTopics, http: CloudHttp) -> None:
        self._device, self._topics = device, topics
        self._cloud = DeviceCloud(device.configuration, http, device.token_exchange)
        self._folder = device.layout.root / "client_devices"
        documents = device.layout.documents
        self._identities = Identities(self._cloud, device.layout.root / "config" / "client_devices.json", documents)
        self._permissions = Permissions()
        self._authority: CertificateAuthority | None = None
        self._authorized = asyncio.Event()
        self._announce = asyncio.Event()
        self._renew = asyncio.Event()
        self._moved = asyncio.Event()
        self._had = (0, 0)
        self.broker = Broker(self)

    def renew(self) -> None:
        """Start the broker anew, with a new certificate: what happens a day before the one that it has ends."""
        self._renew.set()

    def spawn(self, name: str, output: Output) -> Spawn:
        """What runs a component's part in place of a script.

        Args:
            name: One of AWS's that the twin knows.
            output: Its log.
        """
        play = {
            AUTH: self._auth,
            MOQUETTE: self._serve,
            EMQX: self._serve,
            BRIDGE: self._bridge,
            IP_DETECTOR: self._report,
        }[name]

        async def spawn(_step: Step, _script: str, _environment: Mapping[str, str]) -> RunningPart:
            return RunningPart(play(name), output)

        return spawn

    # As the broker's gate.

    async def refusal(self, certificate: bytes, client_id: str) -> str:
        """Why a client is turned away: not verified, or without the right to connect; empty for neither."""
        if not self._authorized.is_set():
            return f"{AUTH} does not run"
        if refusal := await self._identities.refusal(certificate, client_id, self._trusted_s()):
            return refusal
        if not self.allows(client_id, "mqtt:connect", f"mqtt:clientId:{client_id}"):
            groups = ", ".join(self._permissions.groups_of(client_id)) or "none"
            return f"no policy lets {client_id} connect (mqtt:connect); its device groups: {groups}"
        return ""

    def allows(self, client_id: str, operation: str, resource: str) -> bool:
        """Whether a device group of a client allows something; its id is its thing's name."""
        return self._permissions.allows(client_id, operation, resource)

    def _trusted_s(self) -> float:
        return 60.0 * self._number(AUTH, ("security", "clientDeviceTrustDurationMinutes"), (1, 1, 2**31 - 1))

    # The parts.

    async def _auth(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        if self._authority is None:
            thing = self._device.configuration.system.thing_name
            self._authority = await asyncio.to_thread(CertificateAuthority, self._folder, thing)
        changed, end = self._changes(name)
        self._announce.set()
        tasks = [loop.create_task(self._announced()), loop.create_task(self._refreshed())]
        try:
            while True:
                if await asyncio.to_thread(self._authority.renew_if_due):
                    log.info("the certificate authority has a successor: client devices must discover it")
                    self._announce.set()
                    self._renew.set()
                known = self._known(name)
                try:
                    self._permissions = parse_permissions(self._value(name, ("deviceGroups",)))
                except PermissionsError as exc:
                    raise PluginError(str(exc)) from exc
                self._authorized.set()
                self._end_unpermitted()
                self._says(name)
                await _first(CLOCK.real(_LOOK_S), self._differs(name, changed, known))
        finally:
            end()
            self._authorized.clear()
            for task in tasks:
                task.cancel()

    async def _announced(self) -> None:
        """Tell the cloud of the authority, whenever there is another one, until it knows."""
        backoff = Backoff(1.0, 30.0)
        while True:
            await self._announce.wait()
            assert self._authority is not None  # noqa: S101 - made before
            try:
                await self._cloud.put_authorities(self._authority.certificates)
            except (UnreachableError, RequestRejectedError) as exc:
                log.warning("the cloud does not know this device's certificate authority yet: %s", exc)
                await CLOCK.sleep(backoff.next_s())
                continue
            backoff.reset()
            self._announce.clear()

    async def _refreshed(self) -> None:
        """End the sessions of devices that are associated no more."""
        unable, took_s = 0, 0.0
        while True:
            await asyncio.sleep(max(REFRESH_S, took_s / REFRESH_SHARE))
            connected = self.broker.connected
            if not connected or not self._device.connection.connected.is_set():
                continue
            began = time.monotonic()
            try:
                gone = await self._identities.gone(connected)
            except (UnreachableError, CoreDeviceError) as exc:
                unable += 1
                if unable & (unable - 1) == 0:
                    log.warning("it is not known who is still associated (%d times): %s", unable, exc)
                continue
            finally:
                took_s = time.monotonic() - began
            for thing in gone:
                log.warning("client device %s is associated with this core no more, its session ends", thing)
                self.broker.end(thing, "it is associated no more", forget=True)

    def _end_unpermitted(self) -> None:
        """Apply new policies to those who are there: who may not connect goes, and what they may not hear."""
        for thing, session in list(self.broker.sessions.items()):
            if not self.allows(thing, "mqtt:connect", f"mqtt:clientId:{thing}"):
                self.broker.end(thing, "no policy lets it connect any more", forget=False)
                continue
            for topic_filter in list(session.filters):
                if not self.allows(thing, "mqtt:subscribe", f"mqtt:topicfilter:{topic_filter}"):
                    self.broker.unsubscribe(session, topic_filter)

    async def _serve(self, name: str) -> None:
        changed, end = self._changes(name)
        try:
            while True:
                known = self._known(name)
                self._renew.clear()
                life_s = self._number(AUTH, ("certificates", "serverCertificateValiditySeconds"), CERTIFICATE_S)
                await self._listen(self._port(name), life_s)
                self._moved.set()
                self._says(name)
                until_s = CLOCK.real(life_s - RENEWED_BEFORE_S)
                await _first(until_s, self._differs(name, changed, known), self._renew.wait())
                log.info("the broker for client devices starts anew")
                await self.broker.stop()
        finally:
            end()
            await self.broker.stop()
            self._moved.set()

    async def _listen(self, configured: int, life_s: float) -> None:
        # Clients that come back look where they were.
        port = self._had[1] if self._had[0] == configured else configured
        try:
            async with asyncio.timeout(_AUTH_LIMIT_S):
                await self._authorized.wait()
        except TimeoutError:
            raise PluginError(f"{AUTH} must run before a broker can: look at its log") from None
        assert self._authority is not None  # noqa: S101 - authorized
        hosts = await self._hosts()
        roots = self._device.configuration.system.root_ca_path
        life = timedelta(seconds=life_s)
        context = await asyncio.to_thread(self._authority.server_context, hosts, life, roots)
        try:
            await listen(self.broker, context, HOST, port)
        except OSError as exc:
            # Several core devices of a twin are on one machine, where a port is one's alone.
            log.warning("the broker cannot have port %d (%s): it takes a free one", port, exc.strerror)
            await listen(self.broker, context, HOST, 0)
        self._had = (configured, self.broker.port or port)
        log.info("the broker for client devices listens on %s:%s", HOST, self.broker.port)

    async def _hosts(self) -> list[str]:
        try:
            entries = await self._cloud.connectivity()
        except (UnreachableError, RequestRejectedError) as exc:
            log.info("the broker's certificate names %s alone: %s", HOST, exc)
            entries = []
        return [HOST, *(str(entry["HostAddress"]) for entry in entries if entry.get("HostAddress"))]

    def _port(self, name: str) -> int:
        if name == MOQUETTE:
            return int(self._number(name, ("moquette", "ssl_port"), (1, PORT, 65535)))
        bind = self._value(name, ("emqxConfig", "listeners", "ssl", "default", "bind"))
        text = str(PORT if bind is None else bind).rpartition(":")[2]
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise PluginError(f"emqxConfig.listeners.ssl.default.bind must be a port from 1 to 65535, got {bind!r}")
        return int(text)

    async def _bridge(self, name: str) -> None:
        bridge = Bridge(self.broker, self._topics, self._device.connection)
        changed, end = self._changes(name)
        try:
            while True:
                known = self._known(name)
                try:
                    await bridge.open(parse_mappings(self._value(name, ("mqttTopicMapping",))))
                except (MappingError, RequestRejectedError) as exc:
                    raise PluginError(str(exc)) from exc
                self._says(name)
                await self._differs(name, changed, known)
        finally:
            end()
            bridge.close()

    async def _report(self, name: str) -> None:
        backoff = Backoff(1.0, 30.0)
        reported: list[dict[str, Any]] = []
        while True:
            port = self.broker.port
            if port is not None:
                told = int(self._number(name, ("defaultPort",), (1, PORT, 65535)))
                # What is configured, as AWS's does, unless the broker had to take another port than its own.
                configured = self._value(MOQUETTE, ("moquette", "ssl_port"))
                entries = [
                    {
                        "Id": HOST,
                        "HostAddress": HOST,
                        "PortNumber": told if str(configured or PORT) == str(port) else port,
                        "Metadata": "",
                    }
                ]
                try:
                    if entries != reported:
                        await self._cloud.update_connectivity(entries)
                except (UnreachableError, RequestRejectedError) as exc:
                    log.warning("the cloud does not know where this device's broker is: %s", exc)
                    await CLOCK.sleep(backoff.next_s())
                    continue
                reported = entries
                backoff.reset()
            self._says(name)
            await self._moved.wait()
            self._moved.clear()

    # What they have in common.

    def _says(self, name: str) -> None:
        """The component is well."""
        component = self._device.components.get(name)
        if component is not None:
            component.report(State.RUNNING)

    def _changes(self, name: str) -> tuple[asyncio.Event, Callable[[], None]]:
        """An event that is set whenever a component's configuration changes, and what ends that.

        The component has to say anew that it is well: a deployment waits for that, and fails with what is wrong.
        """
        changed = asyncio.Event()

        def note(_name: str, _path: list[str]) -> None:
            changed.set()
            if (component := self._device.components.get(name)) is not None:
                component.report(State.STARTING)

        return changed, self._device.store.subscribe(name, (), note)

    def _known(self, name: str) -> Any:
        """A component's whole configuration as it is now."""
        return copy.deepcopy(self._value(name, ()))

    async def _differs(self, name: str, changed: asyncio.Event, known: Any) -> None:
        """Wait until a configuration is another one: what a deployment sets anew as it was changes nothing."""
        while True:
            await changed.wait()
            changed.clear()
            if self._value(name, ()) != known:
                return
            self._says(name)

    def _value(self, name: str, path: tuple[str, ...]) -> Any:
        try:
            return self._device.store.get(name, path)
        except KeyError:
            return None

    def _number(self, name: str, path: tuple[str, ...], bounds: tuple[float, float, float]) -> float:
        """A number of a configuration, which may be a text; outside its bounds the nearest, as AWS's component does.

        Raises:
            PluginError: It is none.
        """
        least, usual, most = bounds
        value = self._value(name, path)
        try:
            number = float(usual if value is None or value == "" else value)
            inside = min(max(number, least), most)
            if isinstance(value, bool) or number != number:
                raise ValueError
        except (TypeError, ValueError):
            raise PluginError(f"{'.'.join(path)} must be a number, got {value!r}") from None
        if inside != number:
            log.warning("%s must be from %g to %g, got %r: %g is taken", ".".join(path), least, most, value, inside)
        return inside


class RunningPart:
    """A part that is played, as a step that runs.

    Args:
        part: What it does, until it is cancelled.
        output: Where the reason of a failure goes.
    """

    pid = os.getpid()

    def __init__(self, part: Awaitable[None], output: Output) -> None:
        self._task = asyncio.ensure_future(part)
        self._output = output

    async def wait(self) -> int:
        """Wait for its end; 0, or 1 after a failure."""
        await asyncio.wait([self._task])
        if self._task.cancelled() or (error := self._task.exception()) is None:
            return 0
        if not isinstance(error, CoreDeviceError):
            log.error("a client device component failed", exc_info=error)
        self._output.write(f"{error if isinstance(error, CoreDeviceError) else repr(error)}\n".encode())
        return 1

    async def stop(self, grace_s: float) -> None:
        """Cancel it, and wait until it has put away what it had."""
        self._task.cancel()
        await asyncio.wait([self._task], timeout=grace_s)


async def _first(limit_s: float, *waits: Coroutine[Any, Any, object]) -> None:
    """Wait for one of several things, or the time."""
    waiting = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
