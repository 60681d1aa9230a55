"""What a stage's devices are and run, read from an account into one file without secrets; it only reads.

    python -m tools.fleet_export --stage prod              writes out/fleet-prod.json
    eval "$(python -m twin env)"; python -m tools.fleet_export --stage twin       the same of a running twin

`python -m tools.rehearse --fleet FILE` makes that fleet out of simulated devices. Exit codes: 0 written, 1 the account
cannot be read or the file not written, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from config.fleet import RINGS, Ring, ThingName
from config.loader import FOLDER, ConfigurationError, load_stage
from config.names import Names
from config.section import Section
from edge_constructs.model_source import each_key_once
from edge_handlers.service_client import error_code
from twin import TwinError
from twin.files import private_folder, write_whole
from twin.inventory import DEVICES_LIMIT, Account, Listing

ROOT = Path(__file__).resolve().parents[1]
LIMIT_BYTES = 64 << 20
_NUCLEI = {"aws_nucleus_lite": "lite", "aws_nucleus_classic": "classic"}
#: AWS names no rate for these calls: a client that is throttled slows down by itself.
_PATIENT = Config(
    connect_timeout=5, read_timeout=30, retries={"mode": "adaptive", "total_max_attempts": 10}, max_pool_connections=8
)
_THREADS = 4
_TOLD_S = 5.0
_MISTAKES_SHOWN = 10

Word = Annotated[str, StringConstraints(pattern=r"^[\w.+-]{1,128}$")]
Progress = Callable[[str], None]


class FleetDevice(Section):
    """A thing of a ring; what it has never reported is None or empty.

    Attributes:
        thing: Its name.
        ring: Whose deployment it gets.
        nucleus: Which one it runs; None: it has never reported, so it is no core device.
        nucleus_version: The nucleus' version.
        architecture: As Greengrass names it.
        status: HEALTHY or UNHEALTHY, as it said last.
        last_seen: When it said that.
        components: Component to version.
    """

    thing: ThingName
    ring: Ring
    nucleus: Literal["lite", "classic"] | None = None
    nucleus_version: Word | None = None
    architecture: Word | None = None
    status: Word | None = None
    last_seen: AwareDatetime | None = None
    components: dict[Word, Word] = Field(default_factory=dict)


class FleetFile(Section):
    """A stage's devices at one moment.

    Attributes:
        schema_version: Of this form.
        stage: The stage's name.
        region: Where it is.
        taken: When it was read.
        groups: Ring to thing group.
        devices: By name.
    """

    schema_version: Literal[1] = Field(alias="schema")
    stage: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,30}$")]
    taken: AwareDatetime
    groups: dict[Ring, Annotated[str, StringConstraints(pattern=r"^[\w:-]{1,128}$")]]
    devices: Annotated[tuple[FleetDevice, ...], Field(max_length=DEVICES_LIMIT)]

    @model_validator(mode="after")
    def _each_once(self) -> FleetFile:
        names = Counter(device.thing for device in self.devices)
        if twice := sorted(name for name, times in names.items() if times > 1):
            raise ValueError(f"devices must be listed once, {', '.join(twice[:5])} are there twice")
        if missing := sorted({device.ring for device in self.devices} - set(self.groups)):
            raise ValueError(f"groups must name the thing group of ring {', '.join(missing)}")
        return self

    def text(self) -> str:
        """The file: a line a device."""
        head = self.model_dump(mode="json", by_alias=True, exclude={"devices"})
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        rows = (device.model_dump(mode="json", exclude_defaults=True) for device in self.devices)
        devices = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        return "{\n" + ",\n".join([*lines, f' "devices": [\n{devices}\n ]']) + "\n}\n"


class FleetFileError(ValueError):
    """A file is no fleet; the text says where and why."""


def read_fleet(path: Path) -> FleetFile:
    """Read a file that an export wrote.

    Raises:
        FleetFileError: It is missing, too large, no JSON, of another version, or has mistakes.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise FleetFileError(f"{path} must be at most {LIMIT_BYTES:,} bytes, got {size:,}: is it a fleet's file?")
        content = json.loads(path.read_text("utf-8-sig"), object_pairs_hook=each_key_once)
    except OSError as exc:
        raise FleetFileError(f"{path} must be a file of `python -m tools.fleet_export`, got {exc}") from exc
    except (ValueError, RecursionError) as exc:
        if isinstance(exc, FleetFileError):
            raise
        raise FleetFileError(f"{path} must be JSON, whole and in UTF-8: {exc}: export the fleet again") from exc
    if not isinstance(content, dict) or "schema" not in content:
        raise FleetFileError(f"{path} must be a file of `python -m tools.fleet_export`, got one without a schema")
    if content["schema"] != 1:
        raise FleetFileError(
            f"{path}: schema must be 1, got {str(content['schema'])[:20]!r}: export the fleet again with this version"
        )
    try:
        return FleetFile.model_validate(content)
    except ValidationError as exc:
        raise FleetFileError(_mistakes(exc, str(path))) from exc


def _mistakes(error: ValidationError, where: str) -> str:
    found = error.errors(include_url=False)
    lines = [
        f"{where}: {'.'.join(map(str, each['loc'])) or 'fleet'}: {each['msg']}, got {str(each['input'])[:80]!r}"
        for each in found[:_MISTAKES_SHOWN]
    ]
    more = [f"{where}: and {len(found) - len(lines)} more"] if len(found) > len(lines) else []
    return "\n".join(lines + more)


def export(stage: str, region: str, account: Account, progress: Progress) -> FleetFile:
    """Read a stage's devices.

    Args:
        stage: The stage's name.
        region: Where it is.
        account: The account, in that region.
        progress: Told what happens.

    Raises:
        FleetFileError: A thing or component has a name that no core device can have, and the text says which; or there
            are more devices than a file may have.
        TwinError: A call failed for another reason than throttling; the text names it.
    """
    names = Names(stage)
    groups: dict[Ring, str] = {ring: names.ring_group(ring) for ring in RINGS}
    there = set(account.names(Listing("", "iot", "list_thing_groups", "thingGroups[].groupName")))
    groups = {ring: group for ring, group in groups.items() if group in there}
    if not groups:
        raise TwinError(f"stage {stage} must be deployed in {region}, it has no thing group {names.thing_group}")
    rings: dict[str, Ring] = {}
    for ring, group in groups.items():
        listing = Listing("", "iot", "list_things_in_thing_group", "things[]", {"thingGroupName": group, **_PAGE})
        for thing in account.names(listing):
            rings.setdefault(thing, ring)
        progress(f"{len(rings)} things up to ring {ring}")
    if len(rings) > DEVICES_LIMIT:  # before two calls for each
        raise FleetFileError(
            f"stage {stage} must have at most {DEVICES_LIMIT:,} devices for a file, got {len(rings):,}"
        )
    listing = Listing("", "greengrassv2", "list_core_devices", "coreDevices[]", {"maxResults": 100})
    cores = {core["coreDeviceThingName"]: core for core in account.names(listing)}
    listed = [thing for thing in sorted(rings) if thing in cores]
    details = _details(account, listed, progress)
    devices = tuple(_device(thing, rings[thing], cores.get(thing), details.get(thing)) for thing in sorted(rings))
    # The time of a quick twin, which its devices report with, is ahead of this machine's.
    seen = [device.last_seen for device in devices if device.last_seen]
    taken = max([datetime.now(UTC).replace(microsecond=0), *seen])
    return FleetFile(schema=1, stage=stage, region=region, taken=taken, groups=groups, devices=devices)


def _details(account: Account, things: Sequence[str], progress: Progress) -> dict[str, tuple[str, dict[str, str]]]:
    """Version of the nucleus, and components, of each core device: two calls a device."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    told = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        # The first one alone: it makes the clients.
        for part in (things[:1], things[1:]):
            for thing, detail in zip(part, pool.map(lambda thing: _detail(account, thing), part), strict=True):
                if detail:
                    found[thing] = detail
                if time.monotonic() - told > _TOLD_S:
                    told = time.monotonic()
                    progress(f"{len(found)} of {len(things)} core devices read")
    return found


def _detail(account: Account, thing: str) -> tuple[str, dict[str, str]] | None:
    argument = {"coreDeviceThingName": thing}
    components = "installedComponents[].[componentName, componentVersion]"
    try:
        (version,) = account.names(Listing("", "greengrassv2", "get_core_device", "[coreVersion || '']", argument))
        listing = Listing("", "greengrassv2", "list_installed_components", components, {**argument, **_ALL})
        return version, {name: version for name, version in sorted(account.names(listing)) if name and version}
    except TwinError as exc:
        if isinstance(exc.__cause__, ClientError) and error_code(exc.__cause__) == "ResourceNotFoundException":
            return None  # it has just left
        raise


_ALL = {"topologyFilter": "ALL"}
_PAGE = {"maxResults": 250}


def _device(
    thing: str, ring: Ring, core: dict[str, Any] | None, detail: tuple[str, dict[str, str]] | None
) -> FleetDevice:
    try:
        if core is None or detail is None:
            return FleetDevice(thing=thing, ring=ring)
        seen = core.get("lastStatusUpdateTimestamp")
        return FleetDevice(
            thing=thing,
            ring=ring,
            nucleus="lite" if _NUCLEI.get(core.get("runtime") or "") == "lite" else "classic",
            nucleus_version=detail[0] or None,
            architecture=core.get("architecture") or None,
            status=core.get("status") or None,
            last_seen=seen.astimezone(UTC).replace(microsecond=0) if seen else None,
            components=detail[1],
        )
    except ValidationError as exc:
        raise FleetFileError(_mistakes(exc, f"thing {thing}")) from exc


def _say(text: str) -> None:
    print(f"fleet_export: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a stage's fleet into a file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fleet_export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", required=True, help="the stage's name")
    parser.add_argument("--config", type=Path, default=FOLDER, help="folder of the stages' files; config/ by default")
    parser.add_argument("--out", type=Path, help="the file; out/fleet-STAGE.json by default")
    options = parser.parse_args(arguments)
    try:
        stage = load_stage(options.stage, options.config)
        out: Path = options.out or ROOT / "out" / f"fleet-{stage.name}.json"
        if options.out and (not out.parent.is_dir() or (out.exists() and not out.is_file())):
            raise FleetFileError(f"--out must be a file in a folder that exists, got {out}")
        fleet = export(stage.name, stage.region, Account({"region_name": stage.region}, _PATIENT), _say)
        text = fleet.text()
        if len(text) > LIMIT_BYTES:
            raise FleetFileError(
                f"the fleet of stage {stage.name} must be at most {LIMIT_BYTES:,} bytes, as a rehearsal reads them, "
                f"got {len(text):,}: nothing is written"
            )
        if not options.out:
            private_folder(out.parent)
        write_whole(out, text, private=True)
    except KeyboardInterrupt:
        print("fleet_export: interrupted, nothing is written", file=sys.stderr)
        return 130
    except (ConfigurationError, FleetFileError, TwinError, BotoCoreError, OSError) as exc:
        print(f"fleet_export: {_without_account(str(exc))}", file=sys.stderr)
        return 1
    silent = sum(device.nucleus is None for device in fleet.devices)
    print(f"{len(fleet.devices)} devices of stage {stage.name}, {silent} of which have never reported: {out}")
    return 0


def _without_account(text: str) -> str:
    """An error without the account's number, so that it may be shown."""
    return re.sub(r"\b\d{12}\b", "ACCOUNT", text)


if __name__ == "__main__":
    sys.exit(main())
