"""What the demo asks of the fleet as a client would: held-out digits, flowers, scenes, a photograph; the answers."""

import base64
import json
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from config.names import Names
from config.places import PROJECT as ROOT
from edge_inference.messages import Score
from tools.detections import mean_average_precision, truths_in
from tools.digits import digit_png
from twin import TwinError
from twin.operator import OperatorClient

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


def _ask(operator: OperatorClient, names: Names, model: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask until there is an answer: a request that a device took just before it was killed is lost with it."""
    request = _to_the_edge_server(request, names)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return operator.request(
                names.request_topic(model), request, names.response_topic(model), timeout_s=_ANSWER_S
            )
        except TwinError as exc:
            if attempt == _ATTEMPTS:
                raise PredictionError(f"{request['request_id']}, asked {_ATTEMPTS} times: {exc}") from exc
    raise AssertionError("unreachable")


def _to_the_edge_server(request: dict[str, Any], names: Names) -> dict[str, Any]:
    """The request, which other devices with the same models leave alone."""
    return {**request, "device": names.edge_server}


def predict_held_out(operator: OperatorClient, names: Names, model: str) -> Iterator[Prediction]:
    """Ask for every held-out image: the first ten by their index on the device, the others as pictures.

    Args:
        operator: connected client.
        names: topics of the stage.
        model: the model's name.

    Raises:
        PredictionError: an error answer, or none within 30 s of repeated asking.
    """
    samples = np.load(ROOT / "edge_assets" / "models" / model / "samples.npz", allow_pickle=False)
    for index, (image, label) in enumerate(zip(samples["images"], samples["labels"], strict=True)):
        picture = {"image": base64.b64encode(digit_png(image)).decode()}
        request = {"request_id": f"digit-{index}", **({"index": index} if index < _BY_INDEX else picture)}
        answer = _ask(operator, names, model, request)
        if "error" in answer:
            raise PredictionError(f"digit {index}: {answer['error']['code']}: {answer['error']['message']}")
        yield Prediction(
            index=index,
            label=answer["label"],
            expected=str(label),
            probability=answer["top_k"][0]["probability"],
            latency_ms=answer["latency_ms"],
        )


IRIS, PICTURES, SCENES = "iris", "image-classification", "digit-detector"
PICTURE_TOPIC = "gg/sageMakerEdgeManager/image-classification"
ANSWER_LIMIT_S = 30.0


@dataclass(frozen=True)
class ClassifiedPicture:
    """A result that the device published by itself.

    Attributes:
        description: What the results are, including that weights are random.
        results: Label and Score of each.
    """

    description: str
    results: list[dict[str, Any]]


def predict_flowers(operator: OperatorClient, names: Names) -> list[Prediction]:
    """Ask for the species of every held-out iris.

    Args:
        operator: Connected client.
        names: Topics of the stage.

    Returns:
        One prediction a flower.

    Raises:
        PredictionError: An error answer, or none within 30 s.
    """
    folder = ROOT / "edge_assets" / "models" / IRIS
    labels = json.loads((folder / "model.json").read_text(encoding="utf-8"))["labels"]
    predictions = []
    with np.load(folder / "samples.npz", allow_pickle=False) as samples:
        flowers = list(zip(samples["rows"].tolist(), samples["labels"].tolist(), strict=True))
    for index, (row, species) in enumerate(flowers):
        request = _to_the_edge_server({"request_id": f"iris-{index}", "features": row}, names)
        try:
            answer = operator.request(
                names.request_topic(IRIS), request, names.response_topic(IRIS), timeout_s=ANSWER_LIMIT_S
            )
        except TwinError as exc:
            raise PredictionError(f"iris {index}: {exc}") from exc
        if "error" in answer:
            raise PredictionError(f"iris {index}: {answer['error']['code']}: {answer['error']['message']}")
        predictions.append(
            Prediction(
                index=index,
                label=answer["label"],
                expected=labels[species],
                probability=answer["top_k"][0]["probability"],
                latency_ms=answer["latency_ms"],
            )
        )
    return predictions


def find_digits(operator: OperatorClient, names: Names) -> list[Scene]:
    """Ask where the digits are on each held-out scene, which is sent as a picture.

    Args:
        operator: Connected client.
        names: Topics of the stage.

    Returns:
        What was found on each.

    Raises:
        PredictionError: An error answer, or none within 30 s of repeated asking.
    """
    with np.load(ROOT / "edge_assets" / "models" / SCENES / "samples.npz", allow_pickle=False) as samples:
        images = samples["images"]
    scenes = []
    for index, image in enumerate(images):
        request = {"request_id": f"scene-{index}", "image": base64.b64encode(digit_png(image)).decode()}
        answer = _ask(operator, names, SCENES, request)
        if "error" in answer:
            raise PredictionError(f"scene {index}: {answer['error']['code']}: {answer['error']['message']}")
        scenes.append(Scene(index=index, objects=answer["objects"], latency_ms=answer["latency_ms"]))
    return scenes


def precision_of(scenes: Sequence[Scene]) -> float:
    """Mean average precision of what was found on the held-out scenes, at an overlap of 0.5."""
    folder = ROOT / "edge_assets" / "models" / SCENES
    labels = json.loads((folder / "model.json").read_text(encoding="utf-8"))["labels"]
    there = truths_in(folder / "samples.npz", labels) or []
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
