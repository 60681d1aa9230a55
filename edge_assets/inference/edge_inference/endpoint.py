"""One model's work: a bounded queue of requests and files, and what answers them."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edge_component.ipc import Side
from edge_component.outbox import GROUP, Outbox
from edge_component.process import cores
from edge_inference import messages
from edge_inference.camera import Camera, Source
from edge_inference.captures import CaptureQueue
from edge_inference.comparison import Compared, Shadow, Sketch
from edge_inference.files import FileJob, FileSource, read_file
from edge_inference.messages import ErrorCode, Prediction, Request, RequestError, check_size, parse
from edge_inference.models.drift import DriftWindow
from edge_inference.models.runtime import Running
from edge_inference.models.store import Candidate, ModelStore, Workload
from edge_inference.pipeline import HandOver, Pipeline
from edge_inference.settings import ModelSettings

log = logging.getLogger(__name__)

#: How long a worker waits for room in the outbox before it drops an answer; it has asked before it began.
OUTBOX_WAIT_S = 60.0
#: A mask or a quota may change while the process runs.
CORES_EVERY_S = 5.0
WINDOW = 1024


@dataclass
class Counts:
    """What an endpoint has done since it was made."""

    answered: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Job:
    """A request, a file or a camera's frame, when it came, and where its answer goes."""

    subject: bytes | FileJob | Camera
    sides: tuple[Side, ...]
    arrived: float = field(default_factory=time.monotonic)


class Endpoint:
    """Takes messages without ever blocking, works on several at a time where there are cores.

    Each is answered to the side that asked, in the order of what it asked. Where the outbox of one side is full, what
    goes to the other is answered meanwhile.

    Args:
        settings: How the model is served; may be replaced at any time, `component` excepted.
        device: Thing name of this device.
        store: Holds the model.
        outbox: Takes the answers to the cloud.
        captures: Takes samples of inputs and outputs; none by default.
        on_files_done: Called, from any thread, when all files taken are done: it is time to poll for more.
        local: Takes the answers to the device's own components; by default they go where the others do.
        count_cores: Tells how many cores the process may use.
    """

    def __init__(
        self,
        settings: ModelSettings,
        device: str,
        store: ModelStore,
        outbox: Outbox,
        captures: CaptureQueue | None = None,
        on_files_done: Callable[[], None] = lambda: None,
        local: Outbox | None = None,
        count_cores: Callable[[], int] = cores,
    ) -> None:
        self._settings = settings
        self.store = store
        self.counts = Counts()
        self.latencies = Latencies()
        self.drift = DriftWindow()
        #: Of the candidate's comparison with the model in use; None without a candidate.
        self.sketch: Sketch | None = None
        self._candidate: Candidate | None = None
        self._shadow: Shadow | None = None
        self._device = device
        self._outboxes = {Side.CLOUD: outbox, Side.LOCAL: outbox if local is None else local}
        self._captures = captures
        self._on_files_done = on_files_done
        self._source = FileSource()
        # Those taken whose results are not safe yet.
        self._files: set[FileJob] = set()
        self._camera: Camera | None = None
        self._lock = threading.Lock()
        # Held by `poll` and `finish`: what has ended opens no camera and takes no files.
        self._polling = threading.Lock()
        self._finished = False
        self._count_cores = count_cores
        self._cores, self._counted_at = count_cores(), time.monotonic()
        # A lane a side that answers go to: files may go to both.
        self._pipeline: Pipeline[_Job] = Pipeline(
            f"endpoint-{settings.name}", self._work, self._parallel(), self._has_room
        )

    @property
    def settings(self) -> ModelSettings:
        """How the model is served."""
        return self._settings

    @settings.setter
    def settings(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._pipeline.parallel = self._parallel()

    @property
    def threads(self) -> int:
        """How many threads are to work on one input."""
        return min(self._settings.threads or self._cores, self._cores)

    @property
    def running(self) -> Running:
        """How the model is to be run."""
        return Running(self.threads, self._settings.accelerator, batch=self._settings.batch)

    @property
    def waiting(self) -> int:
        """How many requests and files wait."""
        return self._pipeline.waiting

    @property
    def camera(self) -> Camera | None:
        """The camera that is read; None without one."""
        return self._camera

    def start(self) -> None:
        """Start answering."""
        self._pipeline.start()

    def _parallel(self) -> int:
        # Those that are to be run together are on their way together.
        return self._settings.parallel or max(1, self._cores // self.threads, self._settings.batch)

    def _has_room(self, sides: Any) -> bool:
        return all(self._outboxes[side].has_room for side in sides)

    def submit(self, payload: bytes, side: Side = Side.CLOUD) -> None:
        """Take a message; called from the connection's thread, so it never blocks and never raises.

        Args:
            payload: The message, any bytes. One that is too large, or for which there is no room, gets an error answer.
            side: Who asks, and so gets the answer.
        """
        settings = self.settings
        try:
            check_size(payload, settings.max_request_bytes)
            if self._pipeline.waiting_in((side,)) < settings.queue_size:
                self._add(_Job(payload, (side,)))
            elif (request := parse(payload, self._device)) is not None:
                rule = f"at most {settings.queue_size} requests may wait, and as many do: send it again later"
                self._refuse(RequestError(ErrorCode.OVERLOADED, rule), request.request_id, side)
        except RequestError as error:
            self._refuse(error, error.request_id, side)

    def poll(self) -> None:
        """Take the files that are due, once those taken before are done and a model is there; for one thread.

        The camera that the settings name is read from now on. After `finish` nothing happens.
        """
        with self._polling:
            if not self._finished:
                self._poll(time.monotonic())

    def _poll(self, now: float) -> None:
        if now >= self._counted_at + CORES_EVERY_S:
            self._cores, self._counted_at = self._count_cores(), now
            if self._pipeline.parallel != (parallel := self._parallel()):
                self._pipeline.parallel = parallel
        self._follow_candidate()
        model = self.store.wait(0)
        if model is None:
            return
        self._follow_camera(self.settings.camera)
        if self._files:
            return
        for job in self._source.due(self.settings, model.package.folder, now):
            self._files.add(job)
            self._add(_Job(job, self.settings.result_sides))

    def finish(self) -> None:
        """Let the work end behind the last of the waiting messages."""
        with self._polling:
            self._finished = True
            self._follow_camera(None)
            if self._shadow is not None:
                self._shadow.end()
        self._pipeline.finish()

    def join(self, timeout_s: float) -> int:
        """Wait for the end of the work after `finish`.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left unanswered.
        """
        return self._pipeline.join(timeout_s)

    def _add(self, job: _Job) -> None:
        self._pipeline.put(job, job.sides)

    def _follow_camera(self, source: Source | None) -> None:
        if source == (self._camera.source if self._camera else None):
            return
        if self._camera is not None:
            self._camera.close()
        self._camera = None
        if source is not None:
            # TLS and HTTP take memory, and few devices have a camera.
            from edge_inference.camera_frames import HttpFrames

            camera = Camera(source, self._has_frame, HttpFrames)
            camera.start()
            self._camera = camera

    def _has_frame(self, camera: Camera) -> None:
        self._add(_Job(camera, self.settings.result_sides))

    def _follow_candidate(self) -> None:
        candidate = self.store.candidate
        if candidate is self._candidate:
            return
        if self._shadow is not None:
            self._shadow.end()
        self._shadow = self.sketch = None
        if candidate is not None:
            self.sketch = Sketch(candidate.current, candidate.version, candidate.memory_mb)
            if candidate.model is not None:
                self._shadow = Shadow(candidate.model, self.sketch, lambda: self._pipeline.is_quiet, self._keep)
        self._candidate = candidate

    def _keep(self, identifier: str, compared: Compared, candidate: Prediction) -> None:
        if self._captures:
            self._captures.differs(self.settings.name, identifier, compared.request, compared.prediction, candidate)

    def _work(self, job: _Job) -> HandOver:
        if isinstance(job.subject, Camera):
            return self._predict_frame(job.subject, job)
        if isinstance(job.subject, FileJob):
            return self._predict_file(job.subject, job)
        response = self._answer(job.subject, job.arrived)
        return None if response is None else partial(self._put, job, self.settings.response_topic, response)

    def _put(self, job: _Job, topic: str, payload: bytes, on_safe: Callable[[], None] | None = None) -> bool:
        more = self._pipeline.waiting_in(job.sides) >= GROUP
        # Every side gets it, whatever becomes of the other one.
        taken = [self._outboxes[side].put(topic, payload, OUTBOX_WAIT_S, on_safe, more=more) for side in job.sides]
        return all(taken)

    def _answer(self, payload: bytes, arrived: float) -> bytes | None:
        request_id = None
        try:
            request = parse(payload, self._device)
            if request is None:
                return None
            request_id = request.request_id
            settings = self.settings
            prediction, latency_ms = self._predict(self._model(arrived), request)
            response = messages.success(
                request_id, self._device, settings.name, prediction, latency_ms, settings.threshold
            )
        except Exception as exc:  # noqa: BLE001 - counted, logged and answered
            error = self._counted(exc)
            return messages.failure(error.request_id or request_id, self._device, error)
        self._count(answered=1)
        return response

    def _predict_file(self, job: FileJob, of: _Job) -> HandOver:
        settings = self.settings
        try:
            request = read_file(job.path, settings.max_request_bytes)
            model = self._model(of.arrived)
            result = self._result(model, request)
        except Exception as exc:  # noqa: BLE001 - counted, logged and answered
            if job.is_growing():
                self._files.discard(job)  # it is read again
                return None
            job.failed()
            self._let_go(job)
            error = self._counted(exc)
            return partial(self._put, of, settings.response_topic, messages.failure(job.path.name, self._device, error))
        self._count(answered=1)
        return partial(self._publish_file, job, of, settings.result_topic, result)

    def _predict_frame(self, camera: Camera, of: _Job) -> HandOver:
        """Predict the frame that is the newest now, not the one that was when the job was put."""
        frame = camera.take()
        if frame is None:
            return None
        settings = self.settings
        try:
            result = self._result(self._model(of.arrived), Request(frame.name, image=frame.data))
        except Exception as exc:  # noqa: BLE001 - counted, logged and answered
            error = self._counted(exc)
            if error.code is ErrorCode.INVALID_IMAGE:
                camera.reject(str(error))
            return partial(self._put, of, settings.response_topic, messages.failure(frame.name, self._device, error))
        self._count(answered=1)
        return partial(self._put, of, settings.result_topic, result)

    def _result(self, model: Workload, request: Request) -> bytes:
        """Predict what nobody asked for by a message, and write the result in the form that is wanted."""
        settings = self.settings
        prediction, latency_ms = self._predict(model, request)
        if settings.result_format == messages.EDGE_MANAGER:
            return messages.edge_manager(model.package.task, prediction, settings.top_k, settings.threshold)
        return messages.success(
            request.request_id, self._device, settings.name, prediction, latency_ms, settings.threshold
        )

    def _publish_file(self, job: FileJob, of: _Job, topic: str, result: bytes) -> None:
        if not self._put(of, topic, result, _AfterAll(len(of.sides), partial(self._safe, job))):
            self._let_go(job)

    def _safe(self, job: FileJob) -> None:
        """Let go of a file whose result can no longer be lost; called from an outbox's thread."""
        job.done()
        self._let_go(job)

    def _let_go(self, job: FileJob) -> None:
        self._files.discard(job)
        if not self._files:
            self._on_files_done()

    def _model(self, arrived: float) -> Workload:
        model = self.store.model or self.store.wait(arrived + self.settings.model_wait_s)
        if model is None:
            raise RequestError(ErrorCode.MODEL_UNAVAILABLE, f"no model is loaded yet: {self.store.problem}")
        return model

    def _predict(self, model: Workload, request: Request) -> tuple[Prediction, float]:
        started = time.perf_counter()
        prediction = model.predict(request, self.settings.top_k)
        latency_ms = (time.perf_counter() - started) * 1000
        self.latencies.add(latency_ms)
        if prediction.measures and (reference := model.package.reference) is not None:
            self.drift.add(reference, prediction.confidence(reference.threshold), prediction.measures)
        if self._captures and (self.settings.capture_share or self.settings.capture_below):
            self._captures.offer(self.settings, request, prediction)
        if (shadow := self._shadow) is not None:
            shadow.offer(Compared(request, prediction, latency_ms), self.settings.top_k, self.settings.threshold)
        return prediction, latency_ms

    def _counted(self, exc: Exception) -> RequestError:
        if isinstance(exc, RequestError):
            self._count(refused=1)
            log.info("request refused: %s: %s", exc.code, exc)
            return exc
        # Whatever one request does, the next ones are answered; the log has the trace, the client the kind.
        self._count(failed=1)
        log.error("request failed", exc_info=exc)
        return RequestError(ErrorCode.INTERNAL_ERROR, f"inference failed: {type(exc).__name__}: {exc}")

    def _count(self, answered: int = 0, refused: int = 0, failed: int = 0) -> None:
        with self._lock:
            self.counts.answered += answered
            self.counts.refused += refused
            self.counts.failed += failed

    def _refuse(self, error: RequestError, request_id: str | None, side: Side) -> None:
        self._count(refused=1)
        log.warning("request refused: %s: %s", error.code, error)
        response = messages.failure(request_id, self._device, error)
        self._outboxes[side].put(self.settings.response_topic, response)


class _AfterAll:
    """Calls once it was called so many times."""

    def __init__(self, times: int, call: Callable[[], None]) -> None:
        self._left = times
        self._call = call
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._call()


class Latencies:
    """Percentiles over the latest values, in constant memory; safe from any thread.

    Args:
        window: How many values count.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._values = np.zeros(window, np.float32)
        self._count = 0
        self._lock = threading.Lock()

    def add(self, latency_ms: float) -> None:
        """Count one inference of so many milliseconds."""
        with self._lock:
            self._values[self._count % len(self._values)] = latency_ms
            self._count += 1

    def percentiles(self) -> dict[str, float]:
        """Compute p50, p95 and p99.

        Returns:
            Milliseconds by name; empty before the first value.
        """
        with self._lock:
            values = self._values[: self._count].copy()
        if not len(values):
            return {}
        found = np.percentile(values, (50, 95, 99))
        return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), found, strict=True)}
