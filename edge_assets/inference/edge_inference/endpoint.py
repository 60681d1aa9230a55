"""One model's work: a bounded queue of requests and files, and the thread that answers them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from edge_component.ipc import Side
from edge_component.outbox import GROUP, Outbox
from edge_inference import messages
from edge_inference.captures import Captures, NoCaptures
from edge_inference.files import FileJob, FileSource, read_file
from edge_inference.messages import ErrorCode, Request, RequestError, check_size, parse
from edge_inference.models.prediction import Prediction
from edge_inference.models.store import ModelStore, Workload
from edge_inference.settings import ModelSettings

log = logging.getLogger(__name__)

#: How long the worker waits for room in the outbox before it drops an answer; it has asked before it began.
OUTBOX_WAIT_S = 60.0
#: How soon it asks again where there was none.
ROOM_POLL_S = 0.1
WINDOW = 1024


@dataclass
class Counts:
    """What an endpoint has done since it was made."""

    answered: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Job:
    """A request or a file, when it came, and where its answer goes."""

    subject: bytes | FileJob
    sides: tuple[Side, ...]
    arrived: float = field(default_factory=time.monotonic)


class Endpoint:
    """Takes messages without ever blocking, answers them one after the other, each to the side that asked.

    Where the outbox of one side is full, what goes to the other is answered meanwhile.

    Args:
        settings: How the model is served; may be replaced at any time, `component` excepted.
        device: Thing name of this device.
        store: Holds the model.
        outbox: Takes the answers to the cloud.
        captures: Takes samples of inputs and outputs; none by default.
        on_files_done: Called, from any thread, when all files taken are done: it is time to poll for more.
        local: Takes the answers to the device's own components; by default they go where the others do.
    """

    def __init__(
        self,
        settings: ModelSettings,
        device: str,
        store: ModelStore,
        outbox: Outbox,
        captures: Captures | None = None,
        on_files_done: Callable[[], None] = lambda: None,
        local: Outbox | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.counts = Counts()
        self.latencies = Latencies()
        self._device = device
        self._outboxes = {Side.CLOUD: outbox, Side.LOCAL: outbox if local is None else local}
        self._captures = captures or NoCaptures()
        self._on_files_done = on_files_done
        self._source = FileSource()
        # Those taken whose results are not safe yet.
        self._files: set[FileJob] = set()
        # By the sides that the answers go to: files may go to both.
        self._jobs: dict[tuple[Side, ...], deque[_Job]] = {}
        self._came = threading.Condition()
        self._finishing = False
        self._thread = threading.Thread(target=self._work, name=f"endpoint-{settings.name}", daemon=True)

    @property
    def waiting(self) -> int:
        """How many requests and files wait."""
        return sum(map(len, list(self._jobs.values())))

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def submit(self, payload: bytes, side: Side = Side.CLOUD) -> None:
        """Take a message; called from the connection's thread, so it never blocks and never raises.

        Args:
            payload: The message, any bytes. One that is too large, or for which there is no room, gets an error answer.
            side: Who asks, and so gets the answer.
        """
        settings = self.settings
        try:
            check_size(payload, settings.max_request_bytes)
            if len(self._jobs.get((side,), ())) < settings.queue_size:
                self._add(_Job(payload, (side,)))
            elif (request := parse(payload, self._device)) is not None:
                rule = f"at most {settings.queue_size} requests may wait, and as many do: send it again later"
                self._refuse(RequestError(ErrorCode.OVERLOADED, rule), request.request_id, side)
        except RequestError as error:
            self._refuse(error, error.request_id, side)

    def poll(self) -> None:
        """Take the files that are due, once those taken before are done and a model is there; for one thread."""
        model = self.store.wait(0)
        if model is None or self._files:
            return
        for job in self._source.due(self.settings, model.package.folder, time.monotonic()):
            self._files.add(job)
            self._add(_Job(job, self.settings.result_sides))

    def finish(self) -> None:
        """Let the thread end behind the last of the waiting messages."""
        with self._came:
            self._finishing = True
            self._came.notify()

    def join(self, timeout_s: float) -> int:
        """Wait for the thread after `finish`.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left unanswered.
        """
        self._thread.join(max(timeout_s, 0))
        return self.waiting if self._thread.is_alive() else 0

    def _add(self, job: _Job) -> None:
        with self._came:
            self._jobs.setdefault(job.sides, deque()).append(job)
            self._came.notify()

    def _next(self) -> _Job | None:
        """Wait for the oldest job whose answer has room in its outbox; None when all is done after `finish`."""
        with self._came:
            while True:
                waiting = [jobs for jobs in self._jobs.values() if jobs]
                ready = [jobs for jobs in waiting if all(self._outboxes[side].has_room for side in jobs[0].sides)]
                if ready:
                    return min(ready, key=lambda jobs: jobs[0].arrived).popleft()
                if self._finishing and not waiting:
                    return None
                self._came.wait(ROOM_POLL_S if waiting else None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job.subject, FileJob):
                self._publish_file(job.subject, job)
                continue
            response = self._answer(job.subject, job.arrived)
            if response is not None:
                self._put(job, self.settings.response_topic, response)

    def _put(self, job: _Job, topic: str, payload: bytes, on_safe: Callable[[], None] | None = None) -> bool:
        more = len(self._jobs[job.sides]) >= GROUP
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
        self.counts.answered += 1
        return response

    def _publish_file(self, job: FileJob, of: _Job) -> None:
        settings = self.settings
        try:
            request = read_file(job.path, settings.max_request_bytes)
            model = self._model(of.arrived)
            prediction, latency_ms = self._predict(model, request)
            if settings.result_format == messages.EDGE_MANAGER:
                result = messages.edge_manager(model.package.task, prediction, settings.top_k, settings.threshold)
            else:
                result = messages.success(
                    job.path.name, self._device, settings.name, prediction, latency_ms, settings.threshold
                )
        except Exception as exc:  # noqa: BLE001 - counted, logged and answered
            if job.is_growing():
                self._files.discard(job)  # it is read again
                return
            job.failed()
            self._let_go(job)
            error = self._counted(exc)
            self._put(of, settings.response_topic, messages.failure(job.path.name, self._device, error))
            return
        self.counts.answered += 1
        if not self._put(of, settings.result_topic, result, _AfterAll(len(of.sides), partial(self._safe, job))):
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
        if self.settings.capture_share or self.settings.capture_below:
            self._captures.offer(self.settings, request, prediction)
        return prediction, latency_ms

    def _counted(self, exc: Exception) -> RequestError:
        if isinstance(exc, RequestError):
            self.counts.refused += 1
            log.info("request refused: %s: %s", exc.code, exc)
            return exc
        # Whatever one request does, the next ones are answered; the log has the trace, the client the kind.
        self.counts.failed += 1
        log.error("request failed", exc_info=exc)
        return RequestError(ErrorCode.INTERNAL_ERROR, f"inference failed: {type(exc).__name__}: {exc}")

    def _refuse(self, error: RequestError, request_id: str | None, side: Side) -> None:
        self.counts.refused += 1
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
