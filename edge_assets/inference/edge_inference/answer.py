"""The messages of the response topic."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_inference.postprocessing import Score
from edge_inference.request import RequestError

#: PublishToIoTCore on the leanest nucleus takes 6.3 kB; the rest is for the frame.
PAYLOAD_BYTES = 6000
MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Prediction:
    """What a model says about one input.

    Args:
        version: Version of the model's package.
        scores: The most probable labels, the best first, at least one.
    """

    version: str
    scores: Sequence[Score]


def success(request_id: str | None, device: str, model: str, prediction: Prediction, latency_ms: float) -> bytes:
    """Write the answer to a request.

    Args:
        request_id: The client's own id.
        device: Thing name of this device.
        model: Name under which the model is served.
        prediction: What the model says.
        latency_ms: From taking the request to having the prediction, in milliseconds.

    Returns:
        JSON of at most 6,000 bytes; the least probable labels are left out where they do not fit.
    """
    for count in range(len(prediction.scores), 0, -1):
        payload = _encode(
            {
                "request_id": request_id,
                "device": device,
                "model": {"name": model, "version": prediction.version},
                "label": prediction.scores[0].label,
                "top_k": [
                    {"label": score.label, "probability": round(score.probability, 6)}
                    for score in prediction.scores[:count]
                ],
                "latency_ms": round(latency_ms, 3),
                "timestamp": _now(),
            }
        )
        if len(payload) <= PAYLOAD_BYTES:
            break
    return payload


def failure(request_id: str | None, device: str, error: RequestError) -> bytes:
    """Write the answer to a request that has no prediction.

    Args:
        request_id: The client's own id, None where it could not be read.
        device: Thing name of this device.
        error: What is wrong; its text is cut to 500 characters.

    Returns:
        JSON of at most 6,000 bytes.
    """
    message = str(error)
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[: MESSAGE_CHARACTERS - 1]}…"
    return _encode(
        {
            "request_id": request_id,
            "device": device,
            "error": {"code": error.code.value, "message": message},
            "timestamp": _now(),
        }
    )


def _encode(message: dict[str, object]) -> bytes:
    # ASCII: a lone surrogate in a client's id has no UTF-8 form.
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
