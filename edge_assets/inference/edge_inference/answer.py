"""The messages of the response topic."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from edge_inference.postprocessing import Score
from edge_inference.request import ErrorCode, RequestError

#: PublishToIoTCore on the leanest nucleus takes 6.3 kB; the rest is for the frame.
PAYLOAD_BYTES = 6000
MESSAGE_CHARACTERS = 500
# ASCII: a lone surrogate in a client's id has no UTF-8 form.
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Prediction:
    """What a model says about one input.

    Args:
        version: Version of the model's package.
        scores: The most probable labels, the best first; none for raw tensors.
        outputs: Name of each tensor to its nested lists; empty for a classification.
        notice: What whoever reads the answer must know of the model; mostly empty.
    """

    version: str
    scores: Sequence[Score] = ()
    outputs: Mapping[str, object] = field(default_factory=dict)
    notice: str = ""

    def above(self, threshold: float) -> Sequence[Score]:
        """The scores of a probability that is at least a threshold, 0 to 1."""
        return [score for score in self.scores if score.probability >= threshold]


def success(
    request_id: str | None,
    device: str,
    model: str,
    prediction: Prediction,
    latency_ms: float,
    threshold: float = 0,
) -> bytes:
    """Write the answer to a request.

    Args:
        request_id: The client's own id.
        device: Thing name of this device.
        model: Name under which the model is served.
        prediction: What the model says.
        latency_ms: From taking the request to having the prediction, in milliseconds.
        threshold: Labels of a smaller probability are left out of `top_k`; `label` is the best one in any case.

    Returns:
        JSON of at most 6,000 bytes; the least probable labels are left out where they do not fit.

    Raises:
        RequestError: ResultTooLarge: the tensors do not fit into a message.
    """
    scores = prediction.above(threshold)
    for count in range(len(scores), -1, -1):
        payload = encode(
            {
                # The same message may arrive twice, after a lost connection or a restart: the id tells.
                "id": secrets.token_hex(16),
                "request_id": request_id,
                "device": device,
                "model": {"name": model, "version": prediction.version},
                **_result(prediction, scores[:count]),
                **({"notice": prediction.notice} if prediction.notice else {}),
                "latency_ms": round(latency_ms, 3),
                "timestamp": now(),
            }
        )
        if len(payload) <= PAYLOAD_BYTES:
            return payload
    raise RequestError(
        ErrorCode.RESULT_TOO_LARGE,
        f"an answer must have at most {PAYLOAD_BYTES} bytes, got {len(payload)}: ask for smaller tensors",
        request_id,
    )


def _result(prediction: Prediction, scores: Sequence[Score]) -> dict[str, object]:
    if not prediction.scores:
        return {"outputs": prediction.outputs}
    return {
        "label": prediction.scores[0].label,
        "top_k": [{"label": score.label, "probability": round(score.probability, 6)} for score in scores],
    }


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
    return encode(
        {
            "id": secrets.token_hex(16),
            "request_id": request_id,
            "device": device,
            "error": {"code": error.code.value, "message": message},
            "timestamp": now(),
        }
    )


def encode(message: Mapping[str, object]) -> bytes:
    """Write a message as JSON, within ASCII."""
    return _ENCODER.encode(message).encode("ascii")


def now() -> str:
    """The current time as messages hold it: UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
