"""The simulated devices of `up --simulated N`: made in bulk, kept running by the cloud in one process."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twin import TwinError
from twin.devices.identity import certificate_authority, certificate_request, cloud_names, plainly
from twin.devices.membership import DEVICES_LOCK, Membership, remove_folder
from twin.files import private_folder, write_whole
from twin.lifecycle import one_at_a_time
from twin.process import end_edge_processes, fleet_folder, open_files_limit
from twin.simulation.identities import CONFIG_FILE, IDENTITIES, Identities, Identity, status
from twin.simulation.profile import Lot, Profile
from twin.state import FLEET_PATH, TwinState, ask_cloud

COUNT_LIMIT = 10_000
_OTHER_FILES = 500
"""That the cloud has open besides the devices' connections."""

_BULK = 100
_LIMIT_S = 120.0
_CHANGE_LIMIT_S = 30.0

Progress = Callable[[str], None]


def set_count(
    state: TwinState,
    count: int,
    *,
    group: str | None,
    profile: Profile,
    progress: Progress = lambda _text: None,
) -> list[str]:
    """Let there be exactly so many simulated devices, `sim-0001` and up; those that exist stay as they are.

    Args:
        state: Of a running twin.
        count: 0 to 10,000; surplus devices leave, the highest numbers first.
        group: Thing group of new devices, as for `join`.
        profile: What they do; it replaces the one before.
        progress: Told what happens.

    Returns:
        The things.

    Raises:
        TwinError: If a value is not allowed, or devices cannot join or leave.
    """
    check(count)
    devices = [SimulatedDevice(f"sim-{number:04}", group) for number in range(1, count + 1)]
    set_devices(state, devices, profile=profile, progress=progress)
    return [device.thing for device in devices]


def check(count: int) -> None:
    """Refuse what `set_count` refuses, before a twin runs.

    Raises:
        TwinError: The number is not allowed.
    """
    if not 0 <= count <= COUNT_LIMIT:
        raise TwinError(f"--simulated must be from 0 to {COUNT_LIMIT}, got {count}")
    if count > (most := max(0, open_files_limit() - _OTHER_FILES)):
        raise TwinError(
            f"--simulated must be at most {most}, got {count}: a process here may have {open_files_limit()} open files "
            "(ulimit -Hn), and each device is one: raise that limit"
        )


@dataclass(frozen=True)
class SimulatedDevice:
    """A device to be there.

    Args:
        thing: Its name.
        group: Thing group, as for `join`.
        dialect: By default drawn as the profile says.
        architecture: As Greengrass names it; this machine's by default.
    """

    thing: str
    group: str | None = None
    dialect: str = ""
    architecture: str = ""


def set_devices(
    state: TwinState,
    devices: Sequence[SimulatedDevice],
    *,
    profile: Profile,
    progress: Progress = lambda _text: None,
) -> None:
    """Let there be exactly these simulated devices; those that exist stay as they are.

    Args:
        state: Of a running twin.
        devices: At most 10,000; others leave.
        profile: What they do; it replaces the one before.
        progress: Told what happens.

    Raises:
        TwinError: If devices cannot join or leave.
    """
    if devices or fleet_folder(state.home).is_dir():
        with one_at_a_time(state.home, DEVICES_LOCK):
            _set_devices(state, devices, profile, progress)


def _set_devices(state: TwinState, devices: Sequence[SimulatedDevice], profile: Profile, progress: Progress) -> None:
    folder = private_folder(fleet_folder(state.home))
    membership = Membership(state)
    wanted = {device.thing: device for device in devices}
    identities = Identities(folder / IDENTITIES)
    try:
        half_made = identities.names(present=False)
        surplus = [thing for thing in identities.names() if thing not in wanted]
        leaving = sorted({*surplus, *half_made}, reverse=True)
        identities.withdraw(leaving)
        _leave(state, leaving, progress)
        identities.remove(leaving)
        if not devices:
            (folder / CONFIG_FILE).unlink(missing_ok=True)
        else:
            _join_all(state, folder, membership, identities, wanted, profile, progress)
    finally:
        identities.close()
    if not devices:
        end_edge_processes(folder)
        remove_folder(folder, "fleet")
        membership.clean()


def _join_all(
    state: TwinState,
    folder: Path,
    membership: Membership,
    identities: Identities,
    wanted: Mapping[str, SimulatedDevice],
    profile: Profile,
    progress: Progress,
) -> None:
    new = sorted(set(wanted) - set(identities.names()))
    rights = {group: membership.prepare(group) for group in {device.group for device in wanted.values()}}
    _write_configuration(state, folder, membership, next(iter(rights.values()))[1], profile)
    joined = 0
    for group, (policy, _alias, groups) in rights.items():
        of_group = [wanted[thing] for thing in new if wanted[thing].group == group]
        for first in range(0, len(of_group), _BULK):
            part = of_group[first : first + _BULK]
            joined += len(part)
            progress(f"{joined} of {len(new)} simulated devices join")
            _join(state, identities, part, policy, groups, profile)


def change(state: TwinState, *, profile: Profile, measuring: int, away: Collection[str] = ()) -> None:
    """Let simulated devices do something else from here on: outages begin anew, and so do the figures of the ledger.

    Args:
        state: Of a running twin with simulated devices.
        profile: What they do.
        measuring: Another number than the last one begins another measurement.
        away: Devices that lose their network and stay without.

    Raises:
        TwinError: If the fleet does not take it over within 30 s.
    """
    folder = fleet_folder(state.home)
    settings = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    settings |= {"profile": profile.model_dump(mode="json"), "measuring": measuring, "away": sorted(away)}
    write_whole(folder / CONFIG_FILE, json.dumps(settings), private=True)
    deadline = time.monotonic() + _CHANGE_LIMIT_S
    while (status(state.home) or {}).get("measuring") != measuring:
        if time.monotonic() > deadline:
            raise TwinError(
                f"the simulated devices must take over what they are told within {_CHANGE_LIMIT_S:g} s, they did not: "
                "see `python -m twin logs cloud`"
            )
        time.sleep(0.1)


def _write_configuration(state: TwinState, folder: Path, membership: Membership, alias: str, profile: Profile) -> None:
    found = cloud_names(plainly(membership.iot), "", state.region, alias)
    settings = {
        "names": {name: value for name, value in asdict(found).items() if name != "thing"},
        "mqtt_port": state.mqtt_port,
        "proxy_port": state.proxy_port,
        "root_ca": certificate_authority(state.gateway_url),
        "profile": profile.model_dump(mode="json"),
    }
    write_whole(folder / CONFIG_FILE, json.dumps(settings), private=True)


def _join(
    state: TwinState,
    identities: Identities,
    devices: Sequence[SimulatedDevice],
    policy: str,
    groups: list[str],
    profile: Profile,
) -> None:
    requests, made = {}, []
    things = [device.thing for device in devices]
    for device in devices:
        key, requests[device.thing] = certificate_request("AWS IoT Certificate", elliptic=True)
        dialect = device.dialect or Lot(profile, device.thing).dialect
        made.append(Identity(device.thing, "", key, dialect, device.architecture))
    identities.add(made)
    body = {"policy": policy, "group": next(iter(groups), None), "attributes": Membership.MARK, "requests": requests}
    identities.certify(_ask(state, "POST", body, f"joining {things[0]} to {things[-1]}")["certificates"])


def _leave(state: TwinState, things: list[str], progress: Progress) -> None:
    for first in range(0, len(things), _BULK):
        progress(f"{first + len(things[first : first + _BULK])} of {len(things)} simulated devices leave")
        _ask(state, "DELETE", {"things": things[first : first + _BULK]}, "leaving of simulated devices")


def _ask(state: TwinState, method: str, body: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return ask_cloud(state, method, FLEET_PATH, json.dumps(body).encode(), _LIMIT_S)
    except urllib.error.HTTPError as exc:
        raise TwinError(f"{what} must be possible, got: {exc.read(2000).decode(errors='replace')}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise TwinError(f"{what} must be possible, got: {exc!r}: see `python -m twin logs cloud`") from exc
