"""What the demo asks of the fleet as a client would: held-out digits, flowers, scenes, a photograph; the answers.

And of a site: a client device beside a core device, whose line is cut. The stage's own device is nucleus lite, which
has no broker. So a core device of the classic dialect joins, gets what the stage's device has and AWS's components for
client devices beside it, and leaves again.
"""

import base64
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import boto3

from config.client_devices import ClientDevices
from config.names import Names
from config.places import MODELS
from config.public_components import PUBLIC_COMPONENTS
from config.routes import DEVICES
from edge_inference.messages import Score
from tools.detections import Truth, mean_average_precision, truths_in
from tools.offline_deploy import DeploymentError
from twin import TwinError, faults
from twin.devices import client_device
from twin.devices.identity import BOUNDED, delete_certificate, plainly
from twin.devices.membership import SHARED_RIGHTS, Membership, set_own_devices
from twin.operator import OperatorClient
from twin.predict import sample_of, samples_of
from twin.state import TwinState

_ANSWER_S = 3
_ATTEMPTS = 10
_BY_INDEX = 10
_POLL_S = 0.02


class PredictionError(RuntimeError):
    """The device answered with an error, or not in time."""


class Prediction(TypedDict):
    """One answer beside what was expected; probability from 0 to 1, latency in milliseconds on the device."""

    index: int
    label: str
    expected: str
    probability: float
    latency_ms: float


class Scene(TypedDict):
    """What was found on a held-out scene: objects as the device answers them, latency in milliseconds on the device."""

    index: int
    objects: list[dict[str, Any]]
    latency_ms: float


def accuracy(predictions: list[Prediction]) -> float:
    """Share of right answers, from 0 to 1."""
    return sum(p["label"] == p["expected"] for p in predictions) / len(predictions) if predictions else 0.0


def _right(what: str, answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise PredictionError(f"{what}: {answer['error']['code']}: {answer['error']['message']}")
    return answer


def _prediction(index: int, expected: str, answer: dict[str, Any]) -> Prediction:
    probability, latency_ms = answer["top_k"][0]["probability"], answer["latency_ms"]
    return Prediction(
        index=index, label=answer["label"], expected=expected, probability=probability, latency_ms=latency_ms
    )


def _as_picture(png: bytes) -> dict[str, Any]:
    return {"image": base64.b64encode(png).decode()}


IRIS, SCENES = "iris", "digit-detector"
PICTURE_TOPIC = "gg/sageMakerEdgeManager/image-classification"
ANSWER_LIMIT_S = 30.0


@dataclass(frozen=True)
class HeldOut:
    """Asks the edge server for samples that models have never seen.

    Each question raises PredictionError: an error answer, or none within 30 s of repeated asking.

    Args:
        operator: Connected client.
        names: Topics of the stage.
    """

    operator: OperatorClient
    names: Names

    def pictures(self, model: str) -> Iterator[Prediction]:
        """Ask a model for every picture: the first ten by their index on the device, the others as pictures."""
        for index in range(len(samples_of(model)[1]["images"])):
            picture, label = sample_of(model, index)
            subject = {"index": index} if index < _BY_INDEX else _as_picture(picture)
            yield _prediction(index, label, self._ask(model, f"digit {index}", subject))

    def flowers(self) -> list[Prediction]:
        """Ask for the species of every iris."""
        return [
            _prediction(index, sample_of(IRIS, index)[1], self._ask(IRIS, f"iris {index}", {"features": row}))
            for index, row in enumerate(samples_of(IRIS)[1]["rows"].tolist())
        ]

    def scenes(self) -> list[Scene]:
        """Ask where the digits are on each scene, which is sent as a picture."""
        scenes = []
        for index in range(len(samples_of(SCENES)[1]["images"])):
            answer = self._ask(SCENES, f"scene {index}", _as_picture(sample_of(SCENES, index)[0]))
            scenes.append(Scene(index=index, objects=answer["objects"], latency_ms=answer["latency_ms"]))
        return scenes

    def _ask(self, model: str, what: str, subject: dict[str, Any]) -> dict[str, Any]:
        """Ask until there is an answer: a request that a device took just before it was killed is lost with it."""
        # Other devices with the same models leave it alone.
        request = {"request_id": what.replace(" ", "-"), **subject, "device": self.names.edge_server}
        topics = self.names.request_topic(model), self.names.response_topic(model)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _right(what, self.operator.request(topics[0], request, topics[1], timeout_s=_ANSWER_S))
            except TwinError as exc:
                if attempt == _ATTEMPTS:
                    raise PredictionError(f"{request['request_id']}, asked {_ATTEMPTS} times: {exc}") from exc
        raise AssertionError("unreachable")


@dataclass(frozen=True)
class ClassifiedPicture:
    """A result that the device published by itself.

    Attributes:
        description: What the results are, including that weights are random.
        results: Label and Score of each.
    """

    description: str
    results: list[dict[str, Any]]


def truths_on_scenes() -> list[list[Truth]]:
    """What is on the held-out scenes."""
    return truths_in(MODELS / SCENES / "samples.npz", samples_of(SCENES)[0]["labels"]) or []


def precision_of(scenes: Sequence[Scene]) -> float:
    """Mean average precision of what was found on the held-out scenes, at an overlap of 0.5."""
    there = truths_on_scenes()
    return mean_average_precision([scores_of(scene) for scene in scenes], [there[each["index"]] for each in scenes])


def scores_of(scene: Scene) -> list[Score]:
    """The objects of an answer."""
    return [Score(each["label"], each["probability"], tuple(each["box"])) for each in scene["objects"]]


def next_picture(*heard: queue.SimpleQueue[bytes]) -> ClassifiedPicture:
    """Wait for the device's next classification of its photograph, which comes every five seconds.

    Args:
        heard: What comes on `PICTURE_TOPIC`, by one client or several; begun before the deploy it is there after it.

    Raises:
        PredictionError: None within 30 s.
    """
    deadline = time.monotonic() + ANSWER_LIMIT_S
    while not (having := [each for each in heard if not each.empty()]):
        if time.monotonic() > deadline:
            raise PredictionError(f"a result on {PICTURE_TOPIC} must come within {ANSWER_LIMIT_S:.0f} s")
        time.sleep(_POLL_S)
    message = json.loads(having[0].get())
    return ClassifiedPicture(message["inference-description"], message["inference-results"])


CAMERA, MODEL, SAMPLE, GROUP = "camera-1", "digits", 10, "demo-site"
_CLIENT_S, _BEGIN_S, _DEPLOY_S, _STATUS_S = 60, 600, 120, 0.1
OnStatus = Callable[[str], None]


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

    def prepare(self, stopped: threading.Event | None = None, on_status: OnStatus = lambda _text: None) -> float:
        """Let both join, and wait until the core has its components; what an attempt before has left goes first.

        The stage may still be deployed: what its own device gets is waited for.

        Args:
            stopped: Once it is set, the wait ends with an error; what was made stays.
            on_status: Told what happens.

        Returns:
            How long it took from then on, in seconds.

        Raises:
            DeploymentError: The stage's device or the core device does not get its components.
            TwinError: A device cannot join.
            SiteStoppedError: It was stopped.
        """
        stopped = stopped or threading.Event()
        if self._begun:
            self.remove()
        self._begun = True
        shutil.rmtree(self._folder, ignore_errors=True)
        greengrass = boto3.client("greengrassv2", config=BOUNDED, **self._state.client_arguments())
        components = self._components(greengrass, stopped)
        began = time.monotonic()
        (self._core,) = set_own_devices(
            self._state, 1, group=GROUP, dialect="classic", own_rights=True, progress=on_status
        )
        self._deploy(greengrass, components, stopped, on_status)
        client_device.write_folder(self._folder, self._clients.add(CAMERA, self._core), self._state, self._names.stage)
        return time.monotonic() - began

    def read_a_digit_cut_off(self, on_status: OnStatus = lambda _text: None) -> Prediction:
        """Let the client device show a digit to its core, which has no line to the cloud; then both leave.

        Args:
            on_status: Told what happens.

        Raises:
            PredictionError: The client is not answered, or with an error.
            TwinError: The line cannot be cut.
        """
        picture, expected = sample_of(MODEL, SAMPLE)
        (self._folder / "digit.png").write_bytes(picture)
        # It discovers its core by itself; and a core lets in without its line whom the cloud has verified before.
        _run_client(self._folder, "ask", MODEL, "--image", "digit.png")
        on_status(f"the line of {self._core} is cut")
        faults.do(self._state, self._core, "cut-network", "")
        answer = json.loads(_run_client(self._folder, "ask", MODEL, "--image", "digit.png"))
        self.remove(on_status)
        return _prediction(SAMPLE, expected, _right(CAMERA, answer))

    def remove(self, on_status: OnStatus = lambda _text: None) -> None:
        """Let both leave; what is not there is fine.

        Raises:
            TwinError: One cannot leave.
        """
        self._clients.remove(CAMERA)
        set_own_devices(self._state, 0, group=None, dialect="classic", progress=on_status)

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

    def _components(self, greengrass: Any, stopped: threading.Event) -> dict[str, Any]:
        """What the edge server gets."""
        server, deadline = self._names.edge_server, time.monotonic() + _BEGIN_S
        while not (found := _effective(greengrass, server)):
            if time.monotonic() > deadline:
                raise DeploymentError(f"a deployment to {server} must begin within {_BEGIN_S} s, none has")
            if stopped.wait(_STATUS_S):
                raise SiteStoppedError(f"a deployment to {server} is not waited for any more, none has begun")
        components: dict[str, Any] = greengrass.get_deployment(deploymentId=found[0]["deploymentId"])["components"]
        return components

    def _deploy(
        self, greengrass: Any, components: dict[str, Any], stopped: threading.Event, on_status: OnStatus
    ) -> None:
        """Deploy what the edge server has, and AWS's components as a stage with `[client_devices]` does."""
        core, names = self._core, self._names
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
            if stopped.wait(_STATUS_S):
                raise SiteStoppedError(f"the deployment to {core} is not waited for any more, it is {status}")


def _effective(greengrass: Any, core: str) -> list[dict[str, Any]] | None:
    """The deployments of a core device, the newest first; None before it has joined."""
    try:
        found: list[dict[str, Any]] = greengrass.list_effective_deployments(coreDeviceThingName=core)[
            "effectiveDeployments"
        ]
    except greengrass.exceptions.ResourceNotFoundException:
        return None
    return found


def _status(greengrass: Any, core: str, deployment: str) -> str:
    if (found := _effective(greengrass, core)) is None:
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
