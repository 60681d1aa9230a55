"""The twin's own devices beside the edge servers: `up --devices N` makes them, the cloud keeps them running."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from twin import TwinError
from twin.devices.identity import CONFIG_FILE, CREDENTIALS, lite, write_credentials
from twin.devices.membership import Membership
from twin.files import private_folder, write_whole
from twin.lifecycle import one_at_a_time
from twin.process import devices_folder, end_edge_processes
from twin.state import TwinState

COUNT_LIMIT = 100
DIALECTS = ("lite", "classic")
LOCK = "devices.lock"
_END_LIMIT_S = 20.0

Progress = Callable[[str], None]


def names(home: Path) -> list[str]:
    """The things of the devices in a state folder."""
    return sorted(path.parent.name for path in devices_folder(home).glob(f"*/{CONFIG_FILE}"))


def set_count(
    state: TwinState,
    count: int,
    *,
    group: str | None,
    dialect: str,
    own_rights: bool = False,
    progress: Progress = lambda _text: None,
) -> list[str]:
    """Let there be exactly so many devices, `device-01` and up; those that exist are left as they are.

    Args:
        state: Of a running twin.
        count: 0 to 100; surplus devices leave, the highest numbers first.
        group: Thing group of new devices, as for `join`.
        dialect: `lite` or `classic`: whose limits and quirks a new device has.
        own_rights: As for `Membership`.
        progress: Told what happens.

    Returns:
        The things.

    Raises:
        TwinError: If a value is not allowed, or a device cannot join or leave.
    """
    check(count, dialect)
    with one_at_a_time(state.home, LOCK):
        return _set_count(state, count, group, dialect, own_rights=own_rights, progress=progress)


def check(count: int, dialect: str) -> None:
    """Refuse what `set_count` refuses, before a twin runs.

    Raises:
        TwinError: A value is not allowed.
    """
    if not 0 <= count <= COUNT_LIMIT:
        raise TwinError(f"--devices must be from 0 to {COUNT_LIMIT}, got {count}")
    if dialect not in DIALECTS:
        raise TwinError(f"--dialect must be one of {', '.join(DIALECTS)}, got {dialect!r}")


def _set_count(
    state: TwinState, count: int, group: str | None, dialect: str, *, own_rights: bool, progress: Progress
) -> list[str]:
    wanted = [f"device-{number:02}" for number in range(1, count + 1)]
    membership = Membership(state, own_rights=own_rights)
    for thing in [thing for thing in _folders(state.home) if thing not in wanted]:
        progress(f"{thing} leaves")
        _remove(state, membership, thing)
    present = names(state.home)
    for thing in [thing for thing in wanted if thing not in present]:
        progress(f"{thing} joins")
        _add(state, membership, thing, group, dialect)
    return wanted


def _folders(home: Path) -> list[str]:
    """Of devices that have joined or began to."""
    folder = devices_folder(home)
    return sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []


def _add(state: TwinState, membership: Membership, thing: str, group: str | None, dialect: str) -> None:
    root = devices_folder(state.home) / thing
    if root.is_dir():  # an interrupted start: its key may be lost, so it begins anew
        _remove(state, membership, thing)
    private_folder(root.parent)
    private_folder(root)
    identity = membership.join(thing, group)
    write_credentials(root / CREDENTIALS, identity)
    # Written last: a folder with it is a device that has joined, and is kept running.
    write_whole(root / CONFIG_FILE, lite(identity, state.proxy_port, root=str(root), dialect=dialect), private=True)


def _remove(state: TwinState, membership: Membership, thing: str) -> None:
    root = devices_folder(state.home) / thing
    # Without its configuration the cloud's process ends the device; what is left after that is ended here.
    (root / CONFIG_FILE).unlink(missing_ok=True)
    end_edge_processes(root)
    membership.leave(thing)
    deadline = time.monotonic() + _END_LIMIT_S
    while root.exists():
        shutil.rmtree(root, ignore_errors=True)
        if time.monotonic() > deadline:
            raise TwinError(f"the folder of a device that left must be deletable, got {root}: delete it")
