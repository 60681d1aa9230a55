"""Brings captured records to S3: pictures one by one, records as JSON Lines, each batch again until it has arrived."""

import logging
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Protocol

from edge_component.back_off import BackOff
from edge_inference.captures import Capture, CaptureFolder, CaptureQueue
from edge_inference.settings import ServiceSettings

log = logging.getLogger(__name__)

BATCH = 50
FIRST_RETRY_S = 2.0
LONGEST_RETRY_S = 300.0
#: Records of the same minute travel together.
GATHER_S = 5.0
PREFIX = "captures"


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
    """Uploads what lies in the folder, whoever put it there.

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
