"""The other workloads of the demo: flowers by their measures, and a photograph classified at an interval."""

import json
import queue
from dataclasses import dataclass
from typing import Any

import numpy as np

from config.names import Names
from tools.cdk_cli import ROOT
from tools.predictions import Prediction, PredictionError
from twin.errors import TwinError
from twin.operator import OperatorClient

IRIS, PICTURES = "iris", "image-classification"
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
        request = {"request_id": f"iris-{index}", "features": row}
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


def next_picture(operator: OperatorClient) -> ClassifiedPicture:
    """Wait for the device's next classification of its photograph.

    Args:
        operator: Connected client.

    Raises:
        PredictionError: None within 30 s.
    """
    try:
        with operator.listen(PICTURE_TOPIC) as messages:
            message = json.loads(messages.get(timeout=ANSWER_LIMIT_S))
    except queue.Empty:
        raise PredictionError(f"a result on {PICTURE_TOPIC} must come within {ANSWER_LIMIT_S:.0f} s") from None
    except TwinError as exc:
        raise PredictionError(f"results on {PICTURE_TOPIC}: {exc}") from exc
    return ClassifiedPicture(message["inference-description"], message["inference-results"])
