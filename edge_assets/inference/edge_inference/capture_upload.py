"""Brings captured records to S3: pictures one by one, records as JSON Lines, each batch again until it has arrived."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import takewhile
from typing import Protocol

from edge_component.back_off import BackOff
from edge_inference.capture import CaptureQueue
from edge_inference.capture_folder import Capture, CaptureFolder
from edge_inference.service_settings import ServiceSettings

log = logging.getLogger(__name__)

BATCH = 50
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 300.0
#: Records of the same minute travel together.
GATHER_S = 5.0
PREFIX = "captures"
#: A device whose clock is not set says so by an earlier year, and a year of fewer digits makes no key.
EPOCH_YEAR = 1970


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
