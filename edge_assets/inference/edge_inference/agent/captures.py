"""CaptureData: taken at once, written by a thread, its outcome asked for later."""

import base64
import contextlib
import json
import logging
import os
import queue
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from edge_inference.agent import AgentError, Status
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.tensors import content

log = logging.getLogger(__name__)

#: Outcomes that are remembered; the oldest are forgotten.
REMEMBERED = 10_000
#: Clients and agent share a clock; what they do not share is its rounding.
CLOCK_TOLERANCE_S = 1.0
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")


class CaptureFolder:
    """Keeps captures in `FOLDER/<model>/<year>/<month>/<day>/<hour>/<capture id>.json`, by the time of the inference.

    For one thread.

    Args:
        folder: Made when missing; what lies in it from earlier runs counts.
        limit_bytes: Of all captures together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._bytes: int | None = None
        self.dropped = 0

    def store(self, model: str, capture_id: str, moment: datetime, record: dict[str, Any]) -> None:
        """Write a capture, complete or not at all.

        Args:
            model: Name that makes a folder: letters, digits and `-`.
            capture_id: Its own, a UUID.
            moment: Of the inference.
            record: What is JSON.

        Raises:
            OSError: The disk takes it not, even after older captures made room.
            ValueError: It is larger than the whole folder may be.
        """
        content = json.dumps(record, separators=(",", ":")).encode()
        if len(content) > self._limit_bytes:
            raise ValueError(f"a capture must have at most {self._limit_bytes} bytes, got {len(content)}")
        self._make_room(len(content))
        target = self._folder / model / moment.astimezone(UTC).strftime("%Y/%m/%d/%H") / f"{capture_id}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._bytes = (self._bytes or 0) + len(content)

    def _make_room(self, wanted_bytes: int) -> None:
        if self._bytes is None or self._bytes + wanted_bytes > self._limit_bytes:
            captures = sorted(self._captures())
            self._bytes = sum(size for _, size, _ in captures)
            for _, size, path in captures:
                if self._bytes + wanted_bytes <= self._limit_bytes:
                    break
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)
                self._bytes -= size
                self.dropped += 1
                log.warning("capture %s dropped to make room, %d so far", path.stem, self.dropped)

    def _captures(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.rglob("*.json"):
            # Whoever collects captures removes them: one may be gone by now.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._folder:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


class CaptureSink(Protocol):
    """Where captures go."""

    def store(self, model: str, capture_id: str, moment: datetime, record: dict[str, Any]) -> None:
        """Keep a capture; whatever it raises makes the capture a failure."""
        ...


class UploadOrFolder:
    """Captures go to S3 where the device uploads its own, else they stay on the device; see `CaptureSink`.

    Args:
        upload: Takes a capture for the upload; False where there is none.
        folder: Keeps the others.
    """

    def __init__(self, upload: Callable[[str, str, datetime, dict[str, Any]], bool], folder: CaptureSink) -> None:
        self._upload = upload
        self._folder = folder

    def store(self, model: str, capture_id: str, moment: datetime, record: dict[str, Any]) -> None:
        """Keep a capture; see `CaptureSink.store`."""
        if not self._upload(model, capture_id, moment, record):
            self._folder.store(model, capture_id, moment, record)


class Captures:
    """Accepts captures and remembers what became of them; safe for any thread.

    Args:
        sink: Keeps them.
        pending: Captures that may wait for the sink.
        limit_bytes: The largest tensor or auxiliary data.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, sink: CaptureSink, pending: int, limit_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._sink = sink
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._queue: queue.Queue[tuple[str, str, datetime, dict[str, Any]] | None] = queue.Queue(pending)
        self._lock = threading.Lock()
        self._outcomes: OrderedDict[str, int] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="agent-captures", daemon=True)
        self._thread.start()

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
        with self._lock:
            if capture_id in self._outcomes:
                raise AgentError(Status.ALREADY_EXISTS, f"capture {capture_id} was initiated before")
            try:
                self._queue.put_nowait((model, capture_id, moment, record))
            except queue.Full:
                raise AgentError(
                    Status.RESOURCE_EXHAUSTED, f"{self._queue.maxsize} captures wait already: send it again later"
                ) from None
            self._outcomes[capture_id] = wire.IN_PROGRESS
            while len(self._outcomes) > REMEMBERED:
                self._outcomes.popitem(last=False)

    def outcome(self, capture_id: str) -> int:
        """Say what became of a capture.

        Returns:
            A CaptureDataStatus.

        Raises:
            AgentError: INVALID_ARGUMENT: the id is no UUID; NOT_FOUND.
        """
        known = _uuid(capture_id)
        with self._lock:
            if known not in self._outcomes:
                raise AgentError(Status.NOT_FOUND, f"capture {known} is not known")
            return self._outcomes[known]

    def close(self, timeout_s: float) -> None:
        """Write what waits, and end.

        Args:
            timeout_s: How long at most.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            log.error("%d captures are lost: they could not be written in %.0f s", self._queue.qsize(), timeout_s)
            return
        self._thread.join(max(deadline - time.monotonic(), 0))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            model, capture_id, moment, record = item
            try:
                self._sink.store(model, capture_id, moment, record)
                outcome = wire.SUCCESS
            except Exception as exc:  # noqa: BLE001 - whatever one capture does, the next ones are written
                log.error("capture %s is lost: %s: %s", capture_id, type(exc).__name__, exc)
                outcome = wire.FAILURE
            with self._lock:
                if capture_id in self._outcomes:
                    self._outcomes[capture_id] = outcome

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
                "shape": list(item.tensor_metadata.shape),
                "base64": _text(content(item, limit_bytes)),
            }
            for item in items
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
