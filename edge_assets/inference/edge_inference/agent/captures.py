"""CaptureData: taken at once, written with the device's own captures, its outcome asked for later."""

import base64
import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from edge_inference.agent import AgentError, Status
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.tensors import content, written_shape
from edge_inference.captures import Keep

log = logging.getLogger(__name__)

#: Outcomes that are remembered; the oldest are forgotten.
REMEMBERED = 10_000
#: Clients and agent share a clock; what they do not share is its rounding.
CLOCK_TOLERANCE_S = 1.0
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")


class ClientCaptures:
    """Accepts captures and remembers what became of them; safe for any thread.

    Args:
        keep: Takes them to the device's own captures.
        pending: Captures that may wait for the disk.
        limit_bytes: The largest tensor or auxiliary data.
        clock: Seconds since the epoch.
    """

    def __init__(self, keep: Keep, pending: int, limit_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._keep = keep
        self._pending = pending
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._outcomes: OrderedDict[str, int] = OrderedDict()
        self._waiting = 0

    def accept(self, request: Any) -> None:
        """Take a capture.

        Args:
            request: A CaptureDataRequest.

        Raises:
            AgentError: INVALID_ARGUMENT: the capture's id is no UUID, the model's name is none, or the data cannot be
                read; OUT_OF_RANGE: its time is in the future; ALREADY_EXISTS; RESOURCE_EXHAUSTED: too many wait.
        """
        capture_id = _uuid(request.capture_id)
        model = request.model_name
        if not FOLDER_NAME.fullmatch(model):
            raise AgentError(Status.INVALID_ARGUMENT, f"model_name must be a model's name, got {model[:100]!r}")
        moment = self._moment(request)
        record = _record(request, capture_id, moment, self._limit_bytes)
        with self._changed:
            if capture_id in self._outcomes:
                raise AgentError(Status.ALREADY_EXISTS, f"capture {capture_id} was initiated before")
            if self._waiting >= self._pending:
                raise AgentError(
                    Status.RESOURCE_EXHAUSTED, f"{self._pending} captures wait already: send it again later"
                )
            self._waiting += 1
            self._outcomes[capture_id] = wire.IN_PROGRESS
            while len(self._outcomes) > REMEMBERED:
                self._outcomes.popitem(last=False)
        self._keep(model, capture_id, moment, record, partial(self._told, capture_id))

    def outcome(self, capture_id: str) -> int:
        """Say what became of a capture.

        Returns:
            A CaptureDataStatus.

        Raises:
            AgentError: INVALID_ARGUMENT: the id is no UUID; NOT_FOUND.
        """
        known = _uuid(capture_id)
        with self._changed:
            if known not in self._outcomes:
                raise AgentError(Status.NOT_FOUND, f"capture {known} is not known")
            return self._outcomes[known]

    def close(self, timeout_s: float) -> None:
        """Wait until what was accepted is written.

        Args:
            timeout_s: How long at most.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._waiting, timeout_s):
                log.error("%d captures are lost: they could not be written in %.0f s", self._waiting, timeout_s)

    def _told(self, capture_id: str, problem: Exception | None) -> None:
        with self._changed:
            self._waiting -= 1
            if capture_id in self._outcomes:
                self._outcomes[capture_id] = wire.FAILURE if problem else wire.SUCCESS
            self._changed.notify_all()

    def _moment(self, request: Any) -> datetime:
        now = self._clock()
        if not request.HasField("inference_timestamp"):
            return datetime.fromtimestamp(now, UTC)
        stamp = request.inference_timestamp
        seconds = stamp.seconds + stamp.nanos / 1e9
        if seconds > now + CLOCK_TOLERANCE_S:
            raise AgentError(Status.OUT_OF_RANGE, f"inference_timestamp must not be in the future, got {seconds:.3f}")
        try:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        except OverflowError as exc:
            raise AgentError(Status.OUT_OF_RANGE, f"inference_timestamp must be a date, got {seconds}") from exc


def _record(request: Any, capture_id: str, moment: datetime, limit_bytes: int) -> dict[str, Any]:
    def tensors(items: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": item.tensor_metadata.name,
                "type": _name(wire.DataType, item.tensor_metadata.data_type),
                "shape": written_shape(item.tensor_metadata, len(data)),
                "base64": _text(data),
            }
            for item, data in ((item, content(item, limit_bytes)) for item in items)
        ]

    def auxiliary(items: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": item.name,
                "encoding": _name(wire.Encoding, item.encoding),
                "base64": _text(content(item, limit_bytes)),
            }
            for item in items
        ]

    return {
        "captureId": capture_id,
        "model": request.model_name,
        "inferenceTimestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "inputTensors": tensors(request.input_tensors),
        "outputTensors": tensors(request.output_tensors),
        "inputs": auxiliary(request.inputs),
        "outputs": auxiliary(request.outputs),
    }


def _name(enumeration: Any, number: int) -> str:
    # proto3 lets any number through.
    return str(enumeration.Name(number)) if number in enumeration.values() else str(number)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise AgentError(Status.INVALID_ARGUMENT, f"capture_id must be a UUID, got {text[:100]!r}") from exc
