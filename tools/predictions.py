"""The held-out digits, sent to the fleet as a client would, and what came back."""

import base64
from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np

from config.names import Names
from tools.cdk_cli import ROOT
from tools.digits import digit_png
from twin.errors import TwinError
from twin.operator import OperatorClient

_ANSWER_S = 3
_ATTEMPTS = 10
_BY_INDEX = 10


class PredictionError(RuntimeError):
    """The device answered with an error, or not in time."""


class Prediction(TypedDict):
    """One answer beside what was expected; probability from 0 to 1, latency in milliseconds on the device."""

    index: int
    label: str
    expected: str
    probability: float
    latency_ms: float


def accuracy(predictions: list[Prediction]) -> float:
    """Share of right answers, from 0 to 1."""
    return sum(p["label"] == p["expected"] for p in predictions) / len(predictions) if predictions else 0.0


def _ask(operator: OperatorClient, names: Names, model: str, request: dict[str, Any]) -> dict[str, Any]:
    """Ask until there is an answer: a request that a device took just before it was killed is lost with it."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return operator.request(
                names.request_topic(model), request, names.response_topic(model), timeout_s=_ANSWER_S
            )
        except TwinError as exc:
            if attempt == _ATTEMPTS:
                raise PredictionError(f"{request['request_id']}, asked {_ATTEMPTS} times: {exc}") from exc
    raise AssertionError("unreachable")


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
