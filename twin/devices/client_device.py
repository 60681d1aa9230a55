"""Client devices to try a core with: a thing's certificate and a folder with all that a small client needs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from config.names import Names
from twin import TwinError
from twin.devices.identity import (
    BOUNDED,
    CERTIFICATE,
    KEY,
    ROOT_CA,
    Certificate,
    certificate_authority,
    delete_certificate,
    make_certificate,
    plainly,
)
from twin.files import private_folder, write_whole
from twin.state import TwinState

POLICY = "twin-client-devices"
"""IoT policy of client devices where no stage is deployed whose own could serve; it goes with the last of them."""

MARK = {"madeBy": "twin-device"}
"""Attribute of the things that were made here."""

SCRIPT, CORES = "client.py", "cores.json"
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")
_EXAMPLE = Path(__file__).with_name("client_example.py")


@dataclass(frozen=True)
class ClientDevice:
    """A client device that may discover its cores.

    Args:
        thing: Its name.
        cores: Core devices that it is associated with.
        certificate: Its certificate and key.
    """

    thing: str
    cores: list[str]
    certificate: Certificate


class ClientDevices:
    """The calls behind `python -m twin device`.

    Args:
        state: Of a running twin.
        stage: Whose IoT policy client devices get where `cdk deploy` has made it.
    """

    def __init__(self, state: TwinState, stage: str = "twin") -> None:
        self._state, self._names = state, Names(stage)
        self._iot, self._greengrass = (
            boto3.client(name, config=BOUNDED, **state.client_arguments()) for name in ("iot", "greengrassv2")
        )

    def add(self, thing: str, core: str | None = None) -> ClientDevice:
        """Give a thing a certificate; one that does not exist is made, and associated with a core.

        Args:
            thing: Of the stage's `[client_devices]`, or any name.
            core: Core device to associate it with; by default the only one, for a thing that is associated with none.

        Raises:
            TwinError: A name is not allowed, the core is not clear, or a call fails.
        """
        if not _THING_NAME.fullmatch(thing):
            raise TwinError(f"THING must be 1 to 124 of letters, digits, ':', '_', '-', got {thing!r}")
        try:
            self._check_no_core(thing)
            there = self._associated(thing)
            wanted = [core] if core else there or [self._only_core()]
            if self._attributes(thing) is None:
                self._iot.create_thing(thingName=thing, attributePayload={"attributes": MARK})
            for name in set(wanted) - set(there):
                answer = self._greengrass.batch_associate_client_device_with_core_device(
                    coreDeviceThingName=name, entries=[{"thingName": thing}]
                )
                if refused := answer["errorEntries"]:
                    raise TwinError(f"{thing} must be associable with {name}, got: {refused[0].get('message')}")
            certificate = make_certificate(self._iot, self._policy(), thing)
        except (ClientError, BotoCoreError) as exc:
            raise TwinError(f"client device {thing} must be possible, got: {exc}") from exc
        return ClientDevice(thing, sorted({*there, *wanted}), certificate)

    def remove(self, thing: str) -> bool:
        """Delete a thing's certificates, and the thing if it was made here; whether there was such a thing."""
        try:
            attributes = self._attributes(thing)
            if attributes is None:
                self._delete_unused_policy()
                return False
            self._check_no_core(thing)
            for arn in self._iot.list_thing_principals(thingName=thing)["principals"]:
                policies = self._iot.list_attached_policies(target=arn)["policies"]
                delete_certificate(plainly(self._iot), arn, [each["policyName"] for each in policies], thing)
            if attributes.get("madeBy") == MARK["madeBy"]:
                for core in self._associated(thing):
                    self._greengrass.batch_disassociate_client_device_from_core_device(
                        coreDeviceThingName=core, entries=[{"thingName": thing}]
                    )
                self._iot.delete_thing(thingName=thing)
            self._delete_unused_policy()
        except (ClientError, BotoCoreError) as exc:
            raise TwinError(f"client device {thing} must be removable, got: {exc}") from exc
        return True

    def _attributes(self, thing: str) -> dict[str, str] | None:
        try:
            return dict(self._iot.describe_thing(thingName=thing).get("attributes", {}))
        except self._iot.exceptions.ResourceNotFoundException:
            return None

    def _cores(self) -> list[str]:
        pages = self._greengrass.get_paginator("list_core_devices").paginate()
        return [entry["coreDeviceThingName"] for page in pages for entry in page["coreDevices"]]

    def _check_no_core(self, thing: str) -> None:
        if thing in self._cores():
            raise TwinError(f"THING must be a client device's, got {thing}, which is a core device: name another")

    def without_broker(self, cores: Sequence[str]) -> list[str]:
        """Those of some core devices that have told no address, so that discovery finds nothing of them."""
        told = {core: self._greengrass.get_connectivity_info(thingName=core).get("connectivityInfo") for core in cores}
        return [core for core in cores if not told[core]]

    def _only_core(self) -> str:
        cores = self._cores()
        if len(cores) != 1:
            raise TwinError(f"--core must be one of the core devices, which are {', '.join(cores) or 'none yet'}")
        return cores[0]

    def _associated(self, thing: str) -> list[str]:
        found = []
        for core in self._cores():
            pages = self._greengrass.get_paginator("list_client_devices_associated_with_core_device").paginate(
                coreDeviceThingName=core
            )
            if any(entry["thingName"] == thing for page in pages for entry in page["associatedClientDevices"]):
                found.append(core)
        return found

    def _policy(self) -> str:
        policies = [entry["policyName"] for entry in self._iot.list_policies(pageSize=250)["policies"]]
        if (of_stage := f"{self._names.prefix}-client-device") in policies:
            return of_stage
        if POLICY not in policies:
            # Variables of a thing are not filled for the data plane, on AWS neither.
            things = f"arn:aws:iot:{self._state.region}:{self._state.account}:thing/*"
            statement = {"Effect": "Allow", "Action": "greengrass:Discover", "Resource": things}
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            self._iot.create_policy(policyName=POLICY, policyDocument=document)
        return POLICY

    def _delete_unused_policy(self) -> None:
        try:
            if not self._iot.list_targets_for_policy(policyName=POLICY)["targets"]:
                self._iot.delete_policy(policyName=POLICY)
        except self._iot.exceptions.ResourceNotFoundException:
            return


def write_folder(folder: Path, device: ClientDevice, state: TwinState, stage: str = "twin") -> None:
    """Write certificate, key, trusted root, settings, the client and its README; only their owner can read them.

    Args:
        folder: Made if missing.
        device: From `ClientDevices.add`.
        state: Of the twin.
        stage: Whose topics the client uses.

    Raises:
        TwinError: If a file cannot be written.
    """
    settings: dict[str, Any] = {
        "thing": device.thing,
        "discovery_host": f"greengrass-ats.iot.{state.region}.amazonaws.com",
        "proxy": ["127.0.0.1", state.proxy_port],
        "region": state.region,
        "topic_prefix": Names(stage).topics,
    }
    try:
        private_folder(folder)
        for name, text in (
            (CERTIFICATE, device.certificate.pem),
            (KEY, device.certificate.private_key),
            (ROOT_CA, certificate_authority(state.gateway_url)),
            ("client.json", json.dumps(settings, indent=1) + "\n"),
            ("README.md", _readme(device)),
        ):
            write_whole(folder / name, text, private=True)
        shutil.copyfile(_EXAMPLE, folder / SCRIPT)
        (folder / SCRIPT).chmod(0o600)
    except OSError as exc:
        raise TwinError(f"--out must be a folder that can be written, got {folder}: {exc}") from exc


def _readme(device: ClientDevice) -> str:
    return f"""# Client device {device.thing}

It is associated with {", ".join(device.cores)}. In an environment with `paho-mqtt` (that of `make setup` has it):

    python {SCRIPT} discover                  # where the core's broker is, and whom it is certified by: {CORES}
    python {SCRIPT} ask digits --index 7      # or --image FILE: answered by the core, also while its line is cut
    python {SCRIPT} listen                    # what models of the core answer

`{KEY}` is the only copy of the key. `python -m twin device {device.thing} --remove` takes the certificate back.
"""
