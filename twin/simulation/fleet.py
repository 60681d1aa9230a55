"""The process of a simulated fleet: `python -m twin.simulation.fleet --config <folder>/fleet.json`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import logging.handlers
import os
import signal
import ssl
import sys
import tempfile
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from twin import TwinError
from twin.clock import CLOCK
from twin.core_device.cloud.https import tls_context
from twin.core_device.configuration import Configuration, Nucleus, System
from twin.core_device.device import CoreDevice
from twin.core_device.dialect import DIALECTS
from twin.core_device.errors import CoreDeviceError
from twin.core_device.processes import InstanceLock
from twin.files import write_whole

from .identities import CONFIG_FILE, IDENTITIES, STATUS_FILE, Identities, Identity
from .machine import SharedParts, SimulatedMachine
from .profile import Offline, read_profile
from .storage import Database, as_document, document

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_STATUS_S = 1.0
_RESTART_S = 5.0
_LOG_LIMIT_BYTES = 4 << 20
_KEY = "key-"

_thing: ContextVar[str] = ContextVar("twin_simulated_thing", default="-")


@dataclass
class _Running:
    device: CoreDevice
    machine: SimulatedMachine
    task: asyncio.Task[None]
    certificate: int
    outages: list[asyncio.Task[None]] = field(default_factory=list)

    def begin_outages(self, *, away: bool) -> None:
        """Begin the outages that fall to it; a device that is away has no network from here on."""
        self.end_outages()
        if away:
            self.device.connection.cut()
            return
        self.device.connection.restore()
        self.outages = [
            asyncio.create_task(_lose_network(self.device, self.machine, number, entry))
            for number, entry in self.machine.lot.outages()
        ]

    def end_outages(self) -> None:
        """End what would take or give the network."""
        for outage in self.outages:
            outage.cancel()
        self.outages.clear()


class Fleet:
    """All simulated devices of a twin.

    Args:
        folder: Holds the configuration, the identities and everything that is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._settings = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        self._identities = Identities(folder / IDENTITIES)
        self._database = Database(folder / "documents.db")
        (folder / "root_ca.pem").write_text(self._settings["root_ca"], "utf-8")
        address = ("127.0.0.1", int(self._settings["mqtt_port"]))
        self._shared = SharedParts(read_profile(self._settings["profile"]), folder, self._database, address)
        self._devices: dict[str, _Running] = {}
        self._wanted: dict[str, int] = {}
        self._ended: Counter[str] = Counter()
        self._unsaved = ""
        self._frozen = 0
        for left in folder.glob(f"{_KEY}*"):  # of a former process that was killed
            left.unlink(missing_ok=True)

    async def run(self) -> None:
        """Run until cancelled: devices come and go as the identities say."""
        looked = 0.0
        try:
            while True:
                await self._look()
                self._freeze()
                now = asyncio.get_running_loop().time()
                self._save(told := now - looked >= _STATUS_S)
                looked = now if told else looked
                await asyncio.sleep(_LOOK_S)
        finally:
            for running in self._devices.values():
                running.end_outages()
                running.task.cancel()
            await asyncio.gather(*(running.task for running in self._devices.values()), return_exceptions=True)
            self._database.close()
            self._identities.close()

    def _save(self, told: bool) -> None:
        """Write what has changed, and the status where it is time; a full disk ends no device."""
        try:
            self._enter()
            self._database.commit()
            if told:
                write_whole(self._folder / STATUS_FILE, json.dumps(self.status()), private=True)
            why = ""
        except OSError as exc:
            why = str(exc)
        if why != self._unsaved:
            log.error("%s", f"not saved: {why}" if why else "everything is saved again")
        self._unsaved = why

    async def _look(self) -> None:
        settings = json.loads((self._folder / CONFIG_FILE).read_text("utf-8"))
        if settings != self._settings:
            self._change(settings)
        if self._identities.changed():
            self._wanted = self._identities.certificates()
        elif len(self._wanted) == len(self._devices):
            return
        wanted = self._wanted
        # One of the same name with another certificate has left and joined since the last look.
        for thing in [thing for thing, each in self._devices.items() if wanted.get(thing) != each.certificate]:
            running = self._devices.pop(thing)
            running.end_outages()
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
            self._database.remove_all(self._folder / "devices" / thing)
        for number, thing in enumerate([thing for thing in wanted if thing not in self._devices]):
            self._start(thing)
            if number % 10 == 9:  # a thousand at once would leave no time for those that run
                await asyncio.sleep(0)

    def _freeze(self) -> None:
        """Take devices that have all connected out of the garbage collector's sight; put all back once some have left.

        A full collection goes through all of them each time, and holds all up: 0.3 s with a thousand.
        """
        count = len(self._devices)
        if count < self._frozen:
            gc.unfreeze()
            self._frozen = 0
        if count > self._frozen and all(each.device.connection.connected.is_set() for each in self._devices.values()):
            gc.collect()
            gc.freeze()
            self._frozen = count

    def _change(self, settings: dict[str, Any]) -> None:
        before, self._settings = self._settings, settings
        self._shared.profile = read_profile(settings["profile"])
        log.info("the settings are others: they count for what starts from here on, and for outages")
        if any(settings.get(name) != before.get(name) for name in ("profile", "measuring", "away")):
            for thing, running in self._devices.items():
                running.begin_outages(away=thing in self._away)
                running.machine.ledger.begin(self._measuring)

    @property
    def _measuring(self) -> int:
        return int(self._settings.get("measuring", 0))

    @property
    def _away(self) -> frozenset[str]:
        return frozenset(self._settings.get("away", ()))

    def _enter(self) -> None:
        """Write what has changed in the devices' ledgers, where somebody measures."""
        for thing, running in self._devices.items() if self._measuring else ():
            if running.machine.ledger.changed:
                running.machine.ledger.changed = False
                entry = running.machine.ledger.entry(running.device.components.keys())
                self._database.write(document(self._folder, thing), as_document(entry))

    def _start(self, thing: str) -> None:
        identity = self._identities.find(thing)
        if identity is None or not identity.certificate:
            return  # it has left since the look, or is joining again
        configuration = self._configuration(identity)
        token = _thing.set(thing)
        try:
            machine = SimulatedMachine(configuration, self._shared, lambda: self._context(configuration, identity))
            device = CoreDevice(configuration, machine)
            machine.ledger.begin(self._measuring)
            task = asyncio.create_task(self._live(thing, device))
            running = _Running(device, machine, task, hash(identity.certificate))
            running.begin_outages(away=thing in self._away)
            self._devices[thing] = running
        finally:
            _thing.reset(token)

    async def _live(self, thing: str, device: CoreDevice) -> None:
        try:
            await device.run()
        except asyncio.CancelledError:
            raise
        except (Exception, BaseExceptionGroup):
            # As the cloud's process does with a device that ends: it begins anew.
            log.exception("the core device failed and starts again in %g s", _RESTART_S)
            self._ended[thing] += 1
            asyncio.get_running_loop().call_later(_RESTART_S, self._forget, thing, device)
        finally:
            if running := self._devices.get(thing):
                running.end_outages()

    def _forget(self, thing: str, device: CoreDevice) -> None:
        """Let a device be started again; one that has come under its name meanwhile stays."""
        if (running := self._devices.get(thing)) and running.device is device:
            del self._devices[thing]

    def _configuration(self, identity: Identity) -> Configuration:
        names = self._settings["names"]
        root = self._folder / "devices" / identity.thing
        return Configuration(
            System(Path(), Path(), self._folder / "root_ca.pem", root, identity.thing),
            Nucleus(
                region=names["region"],
                credential_endpoint=names["credential_endpoint"],
                data_endpoint=names["data_endpoint"],
                role_alias=names["role_alias"],
                proxy_url=f"http://127.0.0.1:{self._settings['proxy_port']}",
                dialect=DIALECTS[identity.dialect],
                architecture=identity.architecture,
            ),
        )

    def _context(self, configuration: Configuration, identity: Identity) -> ssl.SSLContext:
        """OpenSSL reads certificates from files only: one is made for the moment."""
        context = tls_context(configuration)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, prefix=_KEY) as both:
            both.write(identity.private_key + identity.certificate)
            both.flush()
            context.load_cert_chain(both.name)
        return context

    def status(self) -> dict[str, Any]:
        """What the fleet does, for `status`."""
        running = self._devices.values()
        states = Counter(str(component.state) for each in running for component in each.device.components.values())
        memory = psutil.Process().memory_info()
        return {
            "pid": os.getpid(),
            "measuring": self._measuring,
            "devices": len(self._devices),
            "connected": sum(each.device.connection.connected.is_set() for each in running),
            "deploying": sum(each.device.deploying for each in running),
            "components": dict(states),
            "restarted": sum(self._ended.values()),
            "fetched_bytes": self._shared.downloads.fetched_bytes,
            "counted_bytes": self._shared.downloads.counted_bytes,
            "modelled_memory_mb": round(sum(each.machine.memory_mb for each in running), 1),
            "memory_mb": round(memory.rss / 1e6, 1),
            "time": CLOCK.time(),
        }


async def _lose_network(device: CoreDevice, machine: SimulatedMachine, number: int, entry: Offline) -> None:
    lot, times = machine.lot, 0
    await CLOCK.sleep(lot.between(entry.after_s, "offline after", number))
    while True:
        away_s = lot.between(entry.for_s, "offline for", number, times)
        log.info("the network is gone for %.0f s", away_s)
        device.connection.cut()
        await CLOCK.sleep(away_s)
        device.connection.restore()
        log.info("the network is back")
        if entry.every_s is None:
            return
        times += 1
        await CLOCK.sleep(entry.every_s)


class _NamesThing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.thing = _thing.get()
        return True


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_LIMIT_BYTES, backupCount=2)
    handler.addFilter(_NamesThing())
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)-7s %(thing)s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


async def _run(folder: Path) -> None:
    task = asyncio.create_task(Fleet(folder).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> int:
    """Run until SIGTERM or SIGINT.

    Returns:
        0 after a signal; 1 when the configuration is wrong or the folder is taken.
    """
    parser = argparse.ArgumentParser(prog="python -m twin.simulation.fleet", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the fleet's fleet.json")
    folder = parser.parse_args().config.parent
    lock = InstanceLock(folder / "core_device.pid")
    try:
        lock.acquire()
        _log_to(folder / "log" / "fleet.log")
        asyncio.run(_run(folder))
    except (CoreDeviceError, TwinError, OSError, ValueError, KeyError) as exc:
        sys.stderr.write(f"{exc!r}\n")
        return 1
    finally:
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
