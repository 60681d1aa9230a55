"""What the demo shows of a site: a client device beside a core device, whose line is cut.

The stage's own device is nucleus lite, which has no broker. So a core device of the classic dialect joins, gets what
the stage's device has and AWS's components for client devices beside it, and leaves again.
"""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np

from config.client_devices import ClientDevices
from config.names import Names
from config.places import PROJECT as ROOT
from config.public_components import PUBLIC_COMPONENTS
from config.routes import DEVICES
from tools.digits import digit_png
from tools.offline_deploy import DeploymentError
from tools.predictions import Prediction, PredictionError
from twin import faults
from twin.devices import client_device, own_devices
from twin.devices.identity import BOUNDED, delete_certificate, plainly
from twin.devices.membership import SHARED_RIGHTS, Membership
from twin.state import TwinState

CAMERA, MODEL, SAMPLE, GROUP = "camera-1", "digits", 10, "demo-site"
_CLIENT_S, _DEPLOY_S, _POLL_S = 60, 120, 0.1
OnStatus = Callable[[str], None]


def _silent(_text: str) -> None:
    return


class SiteStoppedError(RuntimeError):
    """Nobody waits for the site any more."""


class Site:
    """A core device of the classic dialect, and a client device beside it.

    Args:
        state: Of the twin, on which the stage is deployed.
        names: Of the stage.
        folder: For the client device's files.
    """

    def __init__(self, state: TwinState, names: Names, folder: Path) -> None:
        self._state, self._names, self._folder = state, names, folder
        self._clients = client_device.ClientDevices(state, names.stage)
        self._core = ""
        self._begun = False

    def prepare(self, stopped: threading.Event | None = None, on_status: OnStatus = _silent) -> float:
        """Let both join, and wait until the core has its components; what an attempt before has left goes first.

        Args:
            stopped: Once it is set, the wait ends with an error; what was made stays.
            on_status: Told what happens.

        Returns:
            How long it took, in seconds.

        Raises:
            DeploymentError: The core device does not get its components.
            TwinError: A device cannot join.
            SiteStoppedError: It was stopped.
        """
        began = time.monotonic()
        if self._begun:
            self.remove()
        self._begun = True
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._core,) = own_devices.set_count(
            self._state, 1, group=GROUP, dialect="classic", own_rights=True, progress=on_status
        )
        self._deploy(stopped or threading.Event(), on_status)
        client_device.write_folder(self._folder, self._clients.add(CAMERA, self._core), self._state, self._names.stage)
        return time.monotonic() - began

    def read_a_digit_cut_off(self, on_status: OnStatus = _silent) -> Prediction:
        """Let the client device show a digit to its core, which has no line to the cloud; then both leave.

        Args:
            on_status: Told what happens.

        Raises:
            PredictionError: The client is not answered, or with an error.
            TwinError: The line cannot be cut.
        """
        with np.load(ROOT / "edge_assets" / "models" / MODEL / "samples.npz", allow_pickle=False) as samples:
            picture, expected = digit_png(samples["images"][SAMPLE]), str(samples["labels"][SAMPLE])
        (self._folder / "digit.png").write_bytes(picture)
        # It discovers its core by itself; and a core lets in without its line whom the cloud has verified before.
        _run_client(self._folder, "ask", MODEL, "--image", "digit.png")
        on_status(f"the line of {self._core} is cut")
        faults.do(self._state, self._core, "cut-network", "")
        answer = json.loads(_run_client(self._folder, "ask", MODEL, "--image", "digit.png"))
        self.remove(on_status)
        if "error" in answer:
            raise PredictionError(f"{CAMERA}: {answer['error']['code']}: {answer['error']['message']}")
        return Prediction(
            index=SAMPLE,
            label=answer["label"],
            expected=expected,
            probability=answer["top_k"][0]["probability"],
            latency_ms=answer["latency_ms"],
        )

    def remove(self, on_status: OnStatus = _silent) -> None:
        """Let both leave; what is not there is fine.

        Raises:
            TwinError: One cannot leave.
        """
        self._clients.remove(CAMERA)
        own_devices.set_count(self._state, 0, group=None, dialect="classic", progress=on_status)

    def discard_half_made(self) -> None:
        """Delete the certificates whose making a killed twin broke off: nobody knows them, so nobody takes them away.

        Raises:
            ClientError, BotoCoreError, TwinError: A call fails.
        """
        iot = boto3.client("iot", config=BOUNDED, **self._state.client_arguments())
        pages = iot.get_paginator("list_certificates").paginate()
        for arn in [each["certificateArn"] for page in pages for each in page["certificates"]]:
            policies = {each["policyName"] for each in iot.list_attached_policies(target=arn)["policies"]}
            # The stage's have a thing, or a policy of the stage.
            ours = policies <= {SHARED_RIGHTS, client_device.POLICY}
            if ours and not iot.list_principal_things(principal=arn)["things"]:
                delete_certificate(plainly(iot), arn, policies, None)
        self.remove()
        Membership(self._state).clean()

    def _deploy(self, stopped: threading.Event, on_status: OnStatus) -> None:
        """Deploy what the edge server has, and AWS's components as a stage with `[client_devices]` does."""
        core, names = self._core, self._names
        greengrass = boto3.client("greengrassv2", config=BOUNDED, **self._state.client_arguments())
        effective = greengrass.list_effective_deployments(coreDeviceThingName=names.edge_server)
        newest = effective["effectiveDeployments"][0]["deploymentId"]
        components: dict[str, Any] = greengrass.get_deployment(deploymentId=newest)["components"]
        asked, answered = names.request_topic(MODEL), names.response_topic(MODEL)
        clients = ClientDevices(things=(CAMERA,), models=(MODEL,))
        for name, configuration in clients.components(
            [(asked, DEVICES, MODEL), (answered, MODEL, DEVICES)], [CAMERA]
        ).items():
            components[name] = {
                "componentVersion": PUBLIC_COMPONENTS[name].version,
                "configurationUpdate": {"merge": json.dumps(configuration)},
            }
        target = f"arn:aws:iot:{self._state.region}:{self._state.account}:thing/{core}"
        made = greengrass.create_deployment(targetArn=target, components=components)["deploymentId"]
        deadline, seen = time.monotonic() + _DEPLOY_S, ""
        while (status := _status(greengrass, core, made)) != "SUCCEEDED":
            if status == "FAILED":
                raise DeploymentError(f"the deployment to {core} must succeed: python -m twin logs {core} says why not")
            if time.monotonic() > deadline:
                raise DeploymentError(f"the deployment to {core} must end within {_DEPLOY_S} s, it is {status}")
            if status != seen:
                seen = status
                on_status(f"{core}: {status}")
            if stopped.wait(_POLL_S):
                raise SiteStoppedError(f"the deployment to {core} is not waited for any more, it is {status}")


def read_a_digit_cut_off(state: TwinState, names: Names, folder: Path) -> Prediction:
    """Make a site, let its client device show its cut off core a digit, and take the site away.

    Args:
        state: Of the twin, on which the stage is deployed.
        names: Of the stage.
        folder: For the client device's files.

    Raises:
        PredictionError, DeploymentError, TwinError: As of `Site`.
    """
    site = Site(state, names, folder)
    try:
        site.prepare()
        return site.read_a_digit_cut_off()
    finally:
        site.remove()


def _status(greengrass: Any, core: str, deployment: str) -> str:
    try:
        found = greengrass.list_effective_deployments(coreDeviceThingName=core)["effectiveDeployments"]
    except greengrass.exceptions.ResourceNotFoundException:
        return "not joined"
    return next((each["coreDeviceExecutionStatus"] for each in found if each["deploymentId"] == deployment), "waits")


def _run_client(folder: Path, *words: str) -> str:
    """Run the client of the folder as its README says."""
    command = [sys.executable, client_device.SCRIPT, *words]
    called = f"{folder.name}: {client_device.SCRIPT} {' '.join(words)}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise PredictionError(f"{called}: must end within {_CLIENT_S} s, it did not") from exc
    if done.returncode:
        raise PredictionError(f"{called}: {done.stderr.strip()[-500:]}")
    return done.stdout
