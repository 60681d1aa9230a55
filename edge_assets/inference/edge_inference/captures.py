"""Inputs and outputs that are kept for later training: chosen, written to disk, brought to S3, never in the way."""

import json
import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from edge_component.back_off import BackOff
from edge_inference.messages import Request
from edge_inference.models.prediction import Prediction
from edge_inference.settings import ModelSettings, ServiceSettings

log = logging.getLogger(__name__)

PNG = b"\x89PNG"
HOUR = "%Y/%m/%d/%H"
STAMP = "%Y%m%dT%H%M%S%f"
#: Predictions that wait to be written at most; pictures may have megabytes.
WAITING = 32
SAMPLED, UNCERTAIN = "sampled", "low-confidence"
BATCH = 50
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 300.0
#: Records of the same minute travel together.
GATHER_S = 5.0
PREFIX = "captures"
#: A device whose clock is not set says so by an earlier year, and a year of fewer digits makes no key.
EPOCH_YEAR = 1970


@dataclass(frozen=True)
class Capture:
    """A record, with its picture where the input was one.

    Args:
        record: JSON file of the record.
        picture: The picture's file; None without.
        model: The model's name.
        hour: `YYYY/MM/DD/HH` in UTC, part of the keys.
    """

    record: Path
    picture: Path | None
    model: str
    hour: str

    @property
    def size(self) -> int:
        """Bytes on disk; 0 for what is gone."""
        return sum(file.stat().st_size for file in self.files if file.exists())

    @property
    def files(self) -> list[Path]:
        """The picture first: a record never names a picture that is not there yet."""
        return [self.picture, self.record] if self.picture else [self.record]

    def remove(self) -> None:
        """Delete the files, the record first."""
        for file in reversed(self.files):
            file.unlink(missing_ok=True)


class CaptureFolder:
    """Records in the order of their moments; safe from any thread.

    Args:
        path: The folder; made when the first record comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        self._bytes: int | None = None
        self._lock = threading.Lock()

    def add(
        self, model: str, identifier: str, record: Mapping[str, object], image: bytes | None, moment: datetime
    ) -> Capture:
        """Write a record.

        Args:
            model: The model's name.
            identifier: Of this record, unique.
            record: All but id and picture.
            image: The encoded picture that was predicted, if it was one.
            moment: When, in UTC.

        Returns:
            The capture.

        Raises:
            OSError: The disk is full or broken; nothing is left of the record.
        """
        with self._lock:
            return self._add(model, identifier, record, image, moment)

    def _add(
        self, model: str, identifier: str, record: Mapping[str, object], image: bytes | None, moment: datetime
    ) -> Capture:
        self.path.mkdir(parents=True, exist_ok=True)
        base = self.path / f"{moment.strftime(STAMP)}.{model}.{identifier}"
        suffix = "" if image is None else ".png" if image.startswith(PNG) else ".jpg"
        picture = base.with_name(base.name + suffix) if image is not None else None
        capture = Capture(base.with_name(base.name + ".json"), picture, model, moment.strftime(HOUR))
        named = {"id": identifier, **record, **({"picture": f"{identifier}{suffix}"} if picture else {})}
        try:
            if picture is not None and image is not None:
                picture.write_bytes(image)
            new = base.with_name(f".{base.name}")
            new.write_text(json.dumps(named, separators=(",", ":")), encoding="ascii")
            new.replace(capture.record)
        except OSError:
            capture.remove()
            base.with_name(f".{base.name}").unlink(missing_ok=True)
            raise
        if self._bytes is not None:
            self._bytes += capture.size
        return capture

    def waiting(self) -> list[Capture]:
        """List the complete records, the oldest first; what has no record's name is left out."""
        if not self.path.is_dir():
            return []
        found = (_capture(file) for file in sorted(self.path.glob("*.json")) if not file.name.startswith("."))
        return [capture for capture in found if capture is not None]

    def remove(self, capture: Capture) -> None:
        """Forget a record that is uploaded."""
        with self._lock:
            self._remove(capture)

    def _remove(self, capture: Capture) -> None:
        size = capture.size
        capture.remove()
        if self._bytes is not None:
            self._bytes -= size

    def shrink(self, limit_bytes: int) -> None:
        """Drop the oldest records until the others fit.

        Args:
            limit_bytes: The largest size of all records and pictures together.
        """
        with self._lock:
            self._shrink(limit_bytes)

    def _shrink(self, limit_bytes: int) -> None:
        if self._bytes is None:
            self._bytes = sum(file.stat().st_size for file in self.path.iterdir())
        if self._bytes <= limit_bytes:
            return
        for capture in self.waiting():
            if self._bytes <= limit_bytes:
                return
            self._remove(capture)
            self.dropped += 1
        # What is left over limit belongs to no record: a process was killed while it wrote.
        for file in list(self.path.iterdir()) if self._bytes > limit_bytes else []:
            file.unlink(missing_ok=True)
        self._bytes = None


def _capture(record: Path) -> Capture | None:
    try:
        stamp, model, _identifier, _json = record.name.split(".")
        hour = datetime.strptime(stamp, STAMP).strftime(HOUR)  # noqa: DTZ007 - UTC both ways
    except ValueError:
        log.debug("%s is no capture", record)
        return None
    pictures = (record.with_suffix(suffix) for suffix in (".png", ".jpg"))
    picture = next((file for file in pictures if file.exists()), None)
    return Capture(record, picture, model, hour)


class Captures(Protocol):
    """Takes predictions that may be worth keeping."""

    def offer(self, settings: ModelSettings, request: Request, prediction: Prediction) -> None:
        """Keep a prediction, or not; never blocks and never raises.

        Args:
            settings: What is to be kept.
            request: The input.
            prediction: The output.
        """
        ...


class NoCaptures:
    """Keeps nothing; see `Captures`."""

    def offer(self, settings: ModelSettings, request: Request, prediction: Prediction) -> None:
        """Keep nothing."""
        del settings, request, prediction


@dataclass(frozen=True)
class _Chosen:
    model: str
    reason: str
    request: Request
    prediction: Prediction
    moment: datetime


class CaptureQueue:
    """Samples predictions; one thread writes them into a folder by `write_next`.

    Args:
        folder: Takes the records.
        device: Thing name of this device.
        chance: Random numbers from 0 to 1.
    """

    def __init__(self, folder: CaptureFolder, device: str, chance: Callable[[], float] = random.random) -> None:
        self.dropped = 0
        self._folder = folder
        self._device = device
        self._chance = chance
        self._chosen: queue.Queue[_Chosen] = queue.Queue(WAITING)

    def offer(self, settings: ModelSettings, request: Request, prediction: Prediction) -> None:
        """Choose by the settings' share and limit; see `Captures.offer`."""
        reason = None
        if prediction.scores and prediction.scores[0].probability < settings.capture_below:
            reason = UNCERTAIN
        elif settings.capture_share and self._chance() < settings.capture_share:
            reason = SAMPLED
        if reason is None:
            return
        try:
            self._chosen.put_nowait(_Chosen(settings.name, reason, request, prediction, datetime.now(UTC)))
        except queue.Full:
            self.dropped += 1

    def write_next(self, limit_bytes: int, timeout_s: float) -> bool:
        """Write the next chosen prediction to disk.

        Args:
            limit_bytes: The folder's size from which on its oldest records go.
            timeout_s: How long to wait for one.

        Returns:
            Whether there was one.
        """
        try:
            chosen = self._chosen.get(timeout=timeout_s)
        except queue.Empty:
            return False
        try:
            self._folder.add(chosen.model, uuid.uuid4().hex, self._record(chosen), chosen.request.image, chosen.moment)
            self._folder.shrink(limit_bytes)
        except OSError as exc:
            self.dropped += 1
            log.warning("a capture is dropped, %s cannot be written: %s", self._folder.path, exc)
        return True

    def _record(self, chosen: _Chosen) -> dict[str, object]:
        request, prediction = chosen.request, chosen.prediction
        given = {"index": request.index, "features": request.features, "inputs": request.inputs}
        output: dict[str, object] = {"outputs": prediction.outputs}
        if prediction.scores:
            output = {"top_k": [{"label": s.label, "probability": s.probability} for s in prediction.scores]}
        return {
            "timestamp": chosen.moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "device": self._device,
            "model": {"name": chosen.model, "version": prediction.version},
            "request_id": request.request_id,
            "reason": chosen.reason,
            "input": {name: value for name, value in given.items() if value is not None},
            "output": output,
        }


#: Takes a capture (model, id, moment, record) for the upload; False where captures are not uploaded.
Upload = Callable[[str, str, datetime, dict[str, Any]], bool]


class ObjectStore(Protocol):
    """Takes objects; every call is bounded in time."""

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object.

        Args:
            bucket: Name of the bucket.
            key: Key in it.
            body: Content.

        Raises:
            OSError: It could not be written; another attempt may work.
        """
        ...


class CaptureUpload:
    """Writes chosen predictions to disk and uploads them.

    The keys are `captures/<device>/<model>/<YYYY>/<MM>/<DD>/<HH>/<id>.jsonl` and, beside it, `<id>.png` or `<id>.jpg`
    of each record that names a picture.

    Args:
        captures: Where predictions come from.
        folder: Where they wait.
        open_store: Opens the place where they go, with the first upload: a device that captures nothing pays nothing.
        device: Thing name of this device.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        captures: CaptureQueue,
        folder: CaptureFolder,
        open_store: Callable[[], ObjectStore],
        device: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = ServiceSettings()
        self.uploaded = 0
        self.problem = ""
        self._captures = captures
        self._folder = folder
        self._open_store = open_store
        self._store: ObjectStore | None = None
        self._device = device
        self._clock = clock
        self._back_off = BackOff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._next_s = clock() + GATHER_S
        self._ended = threading.Event()

    def counts(self) -> dict[str, object]:
        """What the heartbeat tells: records uploaded and dropped, and why the last upload failed."""
        counts: dict[str, object] = {
            "uploaded": self.uploaded,
            "dropped": self._captures.dropped + self._folder.dropped,
        }
        return {**counts, **({"problem": self.problem[:200]} if self.problem else {})}

    def store(self, model: str, capture_id: str, moment: datetime, record: Mapping[str, object]) -> bool:
        """Take a record that another part of the process made, from any thread.

        Args:
            model: The model's name: letters, digits, `_` and `-`.
            capture_id: Its own, without a dot.
            moment: Of the inference, in UTC; before 1970 that of the call is taken for the key.
            record: What is JSON.

        Returns:
            False where captures are not uploaded: nothing was kept.

        Raises:
            OSError: The disk is full or broken.
        """
        if not self.settings.capture_bucket:
            return False
        self._folder.add(model, capture_id, record, None, moment if moment.year >= EPOCH_YEAR else datetime.now(UTC))
        self._folder.shrink(self.settings.capture_bytes)
        return True

    def run(self) -> None:
        """Write and upload until closed; the body of the capture's thread."""
        while not self._ended.is_set():
            self._captures.write_next(self.settings.capture_bytes, timeout_s=0.5)
            if self._clock() >= self._next_s:
                self.upload()

    def close(self) -> None:
        """Let `run` end; what waits on disk is uploaded by the next process."""
        self._ended.set()

    def upload(self) -> None:
        """Upload the oldest records of one model and hour, and choose when to try next."""
        self._next_s = self._clock() + GATHER_S
        bucket = self.settings.capture_bucket
        waiting = self._folder.waiting() if bucket else []
        if not waiting:
            return
        place = (waiting[0].model, waiting[0].hour)
        batch = list(takewhile(lambda capture: (capture.model, capture.hour) == place, waiting[:BATCH]))
        try:
            self._send(bucket, f"{PREFIX}/{self._device}/{place[0]}/{place[1]}", batch)
        except OSError as exc:
            self.problem = str(exc)
            pause_s = self._back_off.pause_s()
            self._next_s = self._clock() + pause_s
            log.warning("%d captures wait, next upload in %.0f s: %s", len(waiting), pause_s, exc)
            return
        for capture in batch:
            self._folder.remove(capture)
        self.uploaded += len(batch)
        self.problem = ""
        self._back_off.reset()
        if len(waiting) > len(batch):
            self._next_s = self._clock()

    def _send(self, bucket: str, prefix: str, batch: list[Capture]) -> None:
        store = self._store = self._store or self._open_store()
        for capture in batch:
            if capture.picture is not None:
                name = capture.picture.name.split(".", 2)[2]
                store.put(bucket, f"{prefix}/{name}", capture.picture.read_bytes())
        lines = b"".join(capture.record.read_bytes() + b"\n" for capture in batch)
        identifier = batch[0].record.name.split(".")[2]
        store.put(bucket, f"{prefix}/{identifier}.jsonl", lines)
