"""The messages of the topics: what a client may ask, what a model says, and what is answered."""

import base64
import binascii
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

REQUEST_ID_CHARACTERS = LABEL_CHARACTERS = 128
FLOAT32_MAX = 3.4028234e38
SUBJECTS = ("index", "image", "features", "inputs")
#: How the files begin that may come as they are, without base64: PNG and JPEG.
PICTURES = (b"\x89PNG", b"\xff\xd8")
#: PublishToIoTCore on the leanest nucleus takes 6.3 kB; the rest is for the frame.
PAYLOAD_BYTES = 6000
MESSAGE_CHARACTERS = 500
# ASCII: a lone surrogate in a client's id has no UTF-8 form.
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
OWN, EDGE_MANAGER = "edgewright", "edge-manager"
FORMATS = (OWN, EDGE_MANAGER)
_EDGE_MANAGER_KEYS = {"label": "Label", "probability": "Score", "box": "Box"}


class ErrorCode(StrEnum):
    """Why a request has no prediction; part of the answer, so that clients can tell the cases apart."""

    INVALID_REQUEST = "InvalidRequest"
    INVALID_IMAGE = "InvalidImage"
    INDEX_OUT_OF_RANGE = "IndexOutOfRange"
    REQUEST_TOO_LARGE = "RequestTooLarge"
    MODEL_UNAVAILABLE = "ModelUnavailable"
    OVERLOADED = "Overloaded"
    RESULT_TOO_LARGE = "ResultTooLarge"
    INTERNAL_ERROR = "InternalError"


class RequestError(Exception):
    """A request that cannot be answered with a prediction.

    Args:
        code: The case.
        message: What is wrong and what would be right, for the client's developer.

    Attributes:
        request_id: The request's own id; set where a message is read.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.request_id: str | None = None


@dataclass(frozen=True)
class Request:
    """A valid request: exactly one of the subjects is set.

    Args:
        request_id: Chosen by the client, at most 128 characters; it comes back in the answer.
        index: Position among the held-out samples of the model package, at least 0.
        image: An encoded picture.
        features: A table's row, in the order of the model's features or by their names.
        inputs: Name of each tensor to its nested lists of numbers.
        label: What the input is, where who asks knows: counted when a candidate is compared, and kept with a capture.
    """

    request_id: str | None
    index: int | None = None
    image: bytes | None = None
    features: list[float] | dict[str, float] | None = None
    inputs: dict[str, object] | None = None
    label: str | None = None

    def needs(self, *subjects: str) -> None:
        """Check that the request has a subject that a model understands.

        Args:
            subjects: Those that it does.

        Raises:
            RequestError: InvalidRequest.
        """
        given = next((name for name in SUBJECTS if getattr(self, name) is not None), "nothing")
        if given not in subjects:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"this model needs {' or '.join(subjects)}, got {given}")


class Score(NamedTuple):
    """A label, its probability, 0 to 1, and of an object left, top, right, bottom in the picture's pixels."""

    label: str
    probability: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says about one input.

    Args:
        version: Version of the model's package.
        scores: The most probable labels, or objects, the best first; none for raw tensors.
        outputs: Name of each tensor to its nested lists; empty but for raw tensors.
        notice: What whoever reads the answer must know of the model; mostly empty.
        size: Width and height of the picture, upright, in which objects were looked for; None unless they were.
        measures: Statistics of the input by name; empty where the model has no reference to compare them with.
    """

    version: str
    scores: Sequence[Score] = ()
    outputs: Mapping[str, object] = field(default_factory=dict)
    notice: str = ""
    size: tuple[int, int] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    def confidence(self, threshold: float) -> float | None:
        """How sure the model is: of the label, or of the object of an answer that it is least sure of.

        Args:
            threshold: Objects of a smaller probability are in no answer.

        Returns:
            From 0 to 1; None where there is no such object, or no probability at all.
        """
        if self.size is None:
            return self.scores[0].probability if self.scores else None
        return min((score.probability for score in self.scores if score.probability >= threshold), default=None)


def check_size(payload: bytes, max_bytes: int) -> None:
    """Refuse a message that is too large to be looked at.

    Args:
        payload: The message.
        max_bytes: The largest size that is accepted.

    Raises:
        RequestError: RequestTooLarge.
    """
    if len(payload) > max_bytes:
        raise RequestError(
            ErrorCode.REQUEST_TOO_LARGE,
            f"a request must have at most {max_bytes} bytes, got {len(payload)}: send a smaller image",
        )


def parse(payload: bytes, device: str) -> Request | None:
    """Read a message of the request topic: a JSON object, alone or in a line before a picture; or just a picture.

    Args:
        payload: The message; any bytes.
        device: Thing name of this device.

    Returns:
        The request, or None when it names another device.

    Raises:
        RequestError: InvalidRequest, or InvalidImage for an image that is not base64.
    """
    message, picture = _parts(payload)
    addressee = message.get("device")
    if isinstance(addressee, str) and addressee != device:
        return None
    request_id = message.get("request_id")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= REQUEST_ID_CHARACTERS):
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"request_id must be a string of at most {REQUEST_ID_CHARACTERS} characters, got {_shown(request_id)}",
        )
    try:
        if addressee is not None and not isinstance(addressee, str):
            raise RequestError(ErrorCode.INVALID_REQUEST, f"device must be a thing name, got {_shown(addressee)}")
        if picture is None:
            return of_message(message, request_id)
        if given := [name for name in SUBJECTS if message.get(name) is not None]:
            rule = f"what follows the line is the image, got {given[0]} in the line, too"
            raise RequestError(ErrorCode.INVALID_REQUEST, rule)
        return Request(request_id, image=picture)
    except RequestError as exc:
        exc.request_id = request_id
        raise


def _parts(payload: bytes) -> tuple[dict[str, object], bytes | None]:
    """The JSON of a message, and the picture that it is or that follows the first line; None without one."""
    if payload.startswith(PICTURES):
        return {}, payload
    line, _, rest = payload.partition(b"\n")
    # No text in UTF-8 has a line that begins like this.
    if rest.startswith(PICTURES):
        return json_object(line), rest
    return json_object(payload), None


def of_message(message: dict[str, object], request_id: str | None) -> Request:
    """Read what a message asks for; see `parse`."""
    given = [name for name in SUBJECTS if message.get(name) is not None]
    if len(given) != 1:
        rule = f"a request must have one of {', '.join(SUBJECTS)}, got {' and '.join(given) or 'none'}"
        raise RequestError(ErrorCode.INVALID_REQUEST, rule)
    subject, value = given[0], message[given[0]]
    label = message.get("label")
    if label is not None and not (isinstance(label, str) and len(label) <= LABEL_CHARACTERS):
        rule = f"label must be a string of at most {LABEL_CHARACTERS} characters, got {_shown(label)}"
        raise RequestError(ErrorCode.INVALID_REQUEST, rule)
    if subject == "image":
        return Request(request_id, image=_image_bytes(value), label=label)
    if subject == "features":
        return Request(request_id, features=_features(value), label=label)
    if subject == "inputs":
        if not isinstance(value, dict):
            raise RequestError(ErrorCode.INVALID_REQUEST, f"inputs must be an object, got {_shown(value)}")
        return Request(request_id, inputs=value, label=label)
    # bool is a subclass of int: {"index": true} would be a request for sample 1.
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(ErrorCode.INVALID_REQUEST, f"index must be a whole number, got {_shown(value)}")
    return Request(request_id, index=value, label=label)


def _features(value: object) -> list[float] | dict[str, float]:
    if not isinstance(value, (list, dict)):
        raise RequestError(ErrorCode.INVALID_REQUEST, f"features must be a list or an object, got {_shown(value)}")
    for name, each in value.items() if isinstance(value, dict) else enumerate(value):
        if not isinstance(each, (int, float)) or isinstance(each, bool) or not abs(each) <= FLOAT32_MAX:
            rule = f"must be a number from -{FLOAT32_MAX:g} to {FLOAT32_MAX:g}, got {_shown(each)}"
            raise RequestError(ErrorCode.INVALID_REQUEST, f"features[{_shown(name)}] {rule}")
    return value


def json_object(payload: bytes) -> dict[str, object]:
    """Read a message as JSON.

    Raises:
        RequestError: InvalidRequest: it is no JSON object.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        reason = "nested too deeply" if isinstance(exc, RecursionError) else exc
        raise RequestError(ErrorCode.INVALID_REQUEST, f"a request must be a JSON object: {reason}") from exc
    if not isinstance(message, dict):
        raise RequestError(ErrorCode.INVALID_REQUEST, f"a request must be a JSON object, got {_shown(message)}")
    return message


def _image_bytes(image: object) -> bytes:
    if not isinstance(image, str):
        raise RequestError(ErrorCode.INVALID_REQUEST, f"image must be a base64 string, got {_shown(image)}")
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be base64: {exc}") from exc


def _shown(value: object) -> str:
    """Show a client its own value, short; a container only by its kind, for its text could be megabytes."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a very large number"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


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
        threshold: Labels and objects of a smaller probability are left out; `label` is the best one in any case.

    Returns:
        JSON of at most 6,000 bytes; the least probable labels or objects are left out where they do not fit, and
        `left_out` says how many objects.

    Raises:
        RequestError: ResultTooLarge: the tensors do not fit into a message.
    """
    scores = above(prediction, threshold)
    for count in range(len(scores), -1, -1):
        payload = encode(
            {
                # The same message may arrive twice, after a lost connection or a restart: the id tells.
                "id": secrets.token_hex(16),
                "request_id": request_id,
                "device": device,
                "model": {"name": model, "version": prediction.version},
                **_result(prediction, scores[:count]),
                **({"left_out": len(scores) - count} if prediction.size is not None and count < len(scores) else {}),
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
    )


def above(prediction: Prediction, threshold: float) -> Sequence[Score]:
    """The scores of a probability that is at least a threshold, 0 to 1."""
    return [score for score in prediction.scores if score.probability >= threshold]


def named_score(score: Score) -> dict[str, object]:
    """A label, or an object, as messages hold it."""
    named: dict[str, object] = {"label": score.label, "probability": round(score.probability, 6)}
    if score.box is not None:
        named["box"] = [round(place, 1) for place in score.box]
    return named


def _result(prediction: Prediction, scores: Sequence[Score]) -> dict[str, object]:
    named = [named_score(score) for score in scores]
    if prediction.size is not None:
        return {"objects": named, "size": prediction.size}
    if not prediction.scores:
        return {"outputs": prediction.outputs}
    return {"label": prediction.scores[0].label, "top_k": named}


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


def edge_manager(task: str, prediction: Prediction, count: int, threshold: float) -> bytes:
    """Write a result as Edge Manager's sample component published it, with probabilities as numbers.

    Args:
        task: What the model does.
        prediction: What it says.
        count: How many labels were asked for.
        threshold: Labels of a smaller probability are left out.

    Returns:
        JSON of at most 6,000 bytes: timestamp, inference-type, inference-description, inference-results with Label,
        Score and of an object its Box; the least probable are left out where they do not fit.
    """
    description = f"Top {count} predictions with score {threshold:g} or above"
    if prediction.notice:
        description = f"{description} ({prediction.notice})"
    scores = above(prediction, threshold)
    for kept in range(len(scores), -1, -1):
        payload = encode(
            {
                "timestamp": now(),
                "inference-type": task,
                "inference-description": description,
                "inference-results": [
                    {_EDGE_MANAGER_KEYS[key]: value for key, value in named_score(score).items()}
                    for score in scores[:kept]
                ],
            }
        )
        if len(payload) <= PAYLOAD_BYTES:
            break
    return payload
