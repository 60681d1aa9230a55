"""Inputs and outputs that are kept for later training: chosen, written to disk, brought to S3, never in the way."""

import json
import logging
import os
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Protocol

from edge_component import BackOff
from edge_inference.messages import Prediction, Request, named_score
from edge_inference.settings import ModelSettings, ServiceSettings

log = logging.getLogger(__name__)

PNG = b"\x89PNG"
HOUR = "%Y/%m/%d/%H"
STAMP = "%Y%m%dT%H%M%S%f"
#: Predictions that wait to be written at most; pictures may have megabytes.
WAITING = 32
SAMPLED, UNCERTAIN, DIFFERENT = "sampled", "low-confidence", "candidate-differs"
#: A device whose clock is not set says so by an earlier year, and a year of fewer digits makes no key.
EPOCH_YEAR = 1970
BATCH = 50
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 300.0
#: Records of the same minute travel together.
GATHER_S = 5.0
PREFIX = "captures"


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
        self,
        model: str,
        identifier: str,
        record: Mapping[str, object],
        image: bytes | None,
        moment: datetime,
        limit_bytes: int,
        *,
        sync: bool = False,
    ) -> Capture:
        """Write a record, and drop the oldest ones where it takes their place.

        Args:
            model: The model's name.
            identifier: Of this record, unique.
            record: All but id and picture.
            image: The encoded picture that was predicted, if it was one.
            moment: When, in UTC.
            limit_bytes: The largest size of all records and pictures together.
            sync: Whether the record must outlive a power cut.

        Returns:
            The capture.

        Raises:
            OSError: The disk is full or broken; nothing is left of the record.
            ValueError: It is larger than all records may be.
        """
        suffix = "" if image is None else ".png" if image.startswith(PNG) else ".jpg"
        named = {"id": identifier, **record, **({"picture": f"{identifier}{suffix}"} if suffix else {})}
        content = json.dumps(named, separators=(",", ":")).encode("ascii")
        size = len(content) + len(image or b"")
        if size > limit_bytes:
            raise ValueError(f"a capture must have at most {limit_bytes} bytes, got {size}")
        base = self.path / f"{moment.strftime(STAMP)}.{model}.{identifier}"
        picture = base.with_name(base.name + suffix) if suffix else None
        capture = Capture(base.with_name(base.name + ".json"), picture, model, moment.strftime(HOUR))
        with self._lock:
            self._write(capture, content, image or b"", sync=sync)
            if self._bytes is not None:
                self._bytes += size
            self._shrink(limit_bytes)
        return capture

    def _write(self, capture: Capture, content: bytes, image: bytes, *, sync: bool) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        new = capture.record.with_name(f".{capture.record.stem}")
        try:
            if capture.picture is not None:
                capture.picture.write_bytes(image)
            with new.open("wb") as stream:
                stream.write(content)
                if sync:
                    stream.flush()
                    os.fsync(stream.fileno())
            new.replace(capture.record)
        except OSError:
            capture.remove()
            new.unlink(missing_ok=True)
            raise

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


Told = Callable[[Exception | None], None]
#: Takes records that another part of the process made; see `CaptureQueue.keep`.
Keep = Callable[[str, str, datetime, Mapping[str, object], Told], None]


@dataclass(frozen=True)
class _Waiting:
    model: str
    identifier: str
    moment: datetime
    record: Callable[[], Mapping[str, object]]
    image: bytes | None
    told: Told
    sync: bool


class CaptureQueue:
    """What is on its way to disk: samples of predictions, and records of others; `run` is for one thread.

    Args:
        folder: Takes the records.
        device: Thing name of this device.
        chance: Random numbers from 0 to 1.
    """

    def __init__(self, folder: CaptureFolder, device: str, chance: Callable[[], float] = random.random) -> None:
        self.settings = ServiceSettings()
        self.dropped = 0
        self._folder = folder
        self._device = device
        self._chance = chance
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._room = threading.Semaphore(WAITING)

    def offer(self, settings: ModelSettings, request: Request, prediction: Prediction) -> None:
        """Keep a prediction where the settings' share or limit chooses it; never blocks and never raises.

        Args:
            settings: What is to be kept.
            request: The input.
            prediction: The output.
        """
        reason = None
        confidence = prediction.confidence(settings.threshold)
        if confidence is not None and confidence < settings.capture_below:
            reason = UNCERTAIN
        elif settings.capture_share and self._chance() < settings.capture_share:
            reason = SAMPLED
        if reason is not None:
            self._add(settings.name, uuid.uuid4().hex, reason, request, prediction)

    def differs(
        self, model: str, identifier: str, request: Request, prediction: Prediction, candidate: Prediction
    ) -> None:
        """Keep an input on which a candidate says something else, while there is room; never blocks and never raises.

        Args:
            model: The model's name.
            identifier: Of the record.
            request: The input.
            prediction: What the model in use says.
            candidate: What the candidate says.
        """
        said = {"version": candidate.version, "output": _output(candidate)}
        self._add(model, identifier, DIFFERENT, request, prediction, {"candidate": said})

    def _add(
        self,
        model: str,
        identifier: str,
        reason: str,
        request: Request,
        prediction: Prediction,
        more: Mapping[str, object] | None = None,
    ) -> None:
        if not self._room.acquire(blocking=False):
            self.dropped += 1
            return
        moment = datetime.now(UTC)
        record = partial(self._record, model, reason, moment, request, prediction, more or {})
        self._waiting.put(_Waiting(model, identifier, moment, record, request.image, self._written, sync=False))

    def keep(
        self,
        model: str,
        identifier: str,
        moment: datetime,
        record: Mapping[str, object],
        told: Told,
    ) -> None:
        """Take a record, which is on disk for good when that is told; from any thread, and never blocks.

        Args:
            model: The model's name: letters, digits, `_` and `-`.
            identifier: Of this record, without a dot.
            moment: Of the inference, in UTC; before 1970 that of the call is taken for the key.
            record: What is JSON.
            told: Called once, from another thread: with None when the record is on disk, else with what went wrong.
        """
        moment = moment if moment.year >= EPOCH_YEAR else datetime.now(UTC)
        self._waiting.put(_Waiting(model, identifier, moment, lambda: record, None, told, sync=True))

    def run(self) -> None:
        """Write for ever; the body of the queue's thread."""
        while True:
            self.write_next()

    def write_next(self, timeout_s: float | None = None) -> bool:
        """Write what comes next to disk.

        Args:
            timeout_s: How long to wait for something; for ever by default.

        Returns:
            Whether there was something.
        """
        try:
            item = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return False
        problem: Exception | None = None
        try:
            self._folder.add(
                item.model,
                item.identifier,
                item.record(),
                item.image,
                item.moment,
                self.settings.capture_bytes,
                sync=item.sync,
            )
        except Exception as exc:  # noqa: BLE001 - whatever one capture does, the next ones are written
            problem = exc
            log.warning("capture %s is lost: %s: %s", item.identifier, type(exc).__name__, exc)
        item.told(problem)
        return True

    def _written(self, problem: Exception | None) -> None:
        self._room.release()
        if problem:
            self.dropped += 1

    def _record(
        self,
        model: str,
        reason: str,
        moment: datetime,
        request: Request,
        prediction: Prediction,
        more: Mapping[str, object],
    ) -> dict[str, object]:
        given = {"index": request.index, "features": request.features, "inputs": request.inputs}
        return {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "device": self._device,
            "model": {"name": model, "version": prediction.version},
            "request_id": request.request_id,
            "reason": reason,
            "input": {name: value for name, value in given.items() if value is not None},
            "output": _output(prediction),
            **({} if request.label is None else {"label": request.label}),
            **more,
        }


def _output(prediction: Prediction) -> dict[str, object]:
    if prediction.size is not None:
        return {"objects": [named_score(score) for score in prediction.scores], "size": prediction.size}
    if prediction.scores:
        return {"top_k": [named_score(score) for score in prediction.scores]}
    return {"outputs": prediction.outputs}


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
    """Uploads what lies in the folder, whoever put it there: pictures one by one, records as JSON Lines.

    Each batch is sent again until it has arrived.

    The keys are `captures/<device>/<model>/<YYYY>/<MM>/<DD>/<HH>/<id>.jsonl` and, beside it, `<id>.png` or `<id>.jpg`
    of each record that names a picture.

    Args:
        captures: The queue, which knows what was dropped before the disk.
        folder: Where captures wait.
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

    def run(self) -> None:
        """Upload until closed; the body of the upload's thread."""
        while not self._ended.wait(max(self._next_s - self._clock(), 0)):
            self.upload()

    def close(self) -> None:
        """Let `run` end; what waits on disk is uploaded by the next process."""
        self._ended.set()

    def upload(self) -> None:
        """Upload the oldest records of one model and hour, and choose when to try next."""
        self._next_s = self._clock() + GATHER_S
        bucket = self.settings.capture_bucket
        waiting: list[Capture] = []
        try:
            waiting = self._folder.waiting() if bucket else []
            if not waiting:
                return
            place = (waiting[0].model, waiting[0].hour)
            batch = list(takewhile(lambda capture: (capture.model, capture.hour) == place, waiting[:BATCH]))
            self.uploaded += self._send(bucket, f"{PREFIX}/{self._device}/{place[0]}/{place[1]}", batch)
            for capture in batch:
                self._folder.remove(capture)
        except Exception as exc:  # noqa: BLE001 - whatever it is, a disk that is read-only now, too: told and tried again
            self.problem = str(exc) or type(exc).__name__
            pause_s = self._back_off.pause_s()
            self._next_s = self._clock() + pause_s
            log.warning("%d captures wait, next upload in %.0f s: %s", len(waiting), pause_s, self.problem)
            return
        self.problem = ""
        self._back_off.reset()
        if len(waiting) > len(batch):
            self._next_s = self._clock()

    def _send(self, bucket: str, prefix: str, batch: list[Capture]) -> int:
        store = self._store = self._store or self._open_store()
        sent: list[bytes] = []
        for capture in batch:
            try:
                record = capture.record.read_bytes()
                picture = capture.picture.read_bytes() if capture.picture else None
            except FileNotFoundError:
                continue  # it has made room for a newer one meanwhile
            if capture.picture and picture is not None:
                store.put(bucket, f"{prefix}/{capture.picture.name.split('.', 2)[2]}", picture)
            sent.append(record + b"\n")
        if sent:
            identifier = batch[0].record.name.split(".")[2]
            store.put(bucket, f"{prefix}/{identifier}.jsonl", b"".join(sent))
        return len(sent)
