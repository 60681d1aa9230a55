"""Simulated devices that come and go while their process runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from twin.simulation import fleet as fleet_module
from twin.simulation.identities import CONFIG_FILE, IDENTITIES, Identities, Identity


class StandingFleet:
    """A fleet whose devices only stand there, with the certificates that they got."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Device:
            def __init__(self, _configuration: Any, machine: Any) -> None:
                self.certificate, self.connection = machine.certificate, SimpleNamespace(restore=lambda: None)

            async def run(self) -> None:
                await asyncio.Event().wait()

        def machine(_configuration: Any, _shared: Any, certificate: Any) -> Any:
            parts = {"ledger": SimpleNamespace(begin=lambda _: None), "lot": SimpleNamespace(outages=list)}
            return SimpleNamespace(certificate=certificate(), **parts)

        names = dict.fromkeys(("region", "credential_endpoint", "data_endpoint", "role_alias"), "x")
        settings = {"root_ca": "", "mqtt_port": 1, "proxy_port": 1, "profile": {}, "names": names}
        (folder / CONFIG_FILE).write_text(json.dumps(settings))
        monkeypatch.setattr(fleet_module, "CoreDevice", Device)
        monkeypatch.setattr(fleet_module, "SimulatedMachine", machine)
        monkeypatch.setattr(fleet_module.Fleet, "_context", lambda _self, _of, identity: identity.certificate)
        self.fleet, self.identities = fleet_module.Fleet(folder), Identities(folder / IDENTITIES)
        self.database = self.fleet._database

    def join(self, certificate: str, *things: str) -> None:
        self.identities.add([Identity(thing, "", "key", "lite") for thing in things])
        self.identities.certify(dict.fromkeys(things, certificate))

    def leave(self, *things: str) -> None:
        self.identities.withdraw(list(things))
        self.identities.remove(list(things))

    def running(self) -> dict[str, Any]:
        return {thing: running.device.certificate for thing, running in self.fleet._devices.items()}  # type: ignore[attr-defined]

    def close(self) -> None:
        self.identities.close()
        self.fleet._identities.close()
        self.database.close()


def test_a_device_that_left_and_joined_between_two_looks_has_its_new_certificate_and_no_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, past = StandingFleet(tmp_path, monkeypatch), tmp_path / "devices" / "sim-0002" / "config" / "job.json"

    async def looks() -> None:
        few.join("first", "sim-0001", "sim-0002")
        await few.fleet._look()
        assert few.running() == {"sim-0001": "first", "sim-0002": "first"}
        few.database.write(past, {"jobId": "done"})
        stays = few.fleet._devices["sim-0001"]

        few.leave("sim-0002")
        few.join("second", "sim-0002")
        await few.fleet._look()

        assert few.running() == {"sim-0001": "first", "sim-0002": "second"}
        assert few.database.read(past) is None
        assert few.fleet._devices["sim-0001"] is stays

    asyncio.run(looks())
    few.close()


def test_a_device_that_leaves_or_is_half_made_while_others_start_ends_no_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = StandingFleet(tmp_path, monkeypatch)
    few.identities.add([Identity("sim-0002", "", "key", "lite")])

    async def starts() -> None:
        few.fleet._start("sim-0001")
        few.fleet._start("sim-0002")

    asyncio.run(starts())
    assert few.running() == {}
    few.close()
