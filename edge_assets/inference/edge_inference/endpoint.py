"""One model's requests: a bounded queue and the thread that answers them."""

import logging
import queue
import threading
import time
from dataclasses import dataclass

from edge_inference import answer
from edge_inference.configuration import ModelSettings
from edge_inference.model_store import ModelStore
from edge_inference.outbox import Outbox
from edge_inference.request import ErrorCode, RequestError, check_size, parse

log = logging.getLogger(__name__)

#: How long the worker waits for room in the outbox before it drops an answer.
OUTBOX_WAIT_S = 60.0


@dataclass
class Counts:
    """What an endpoint has done since it was made."""

    answered: int = 0
    refused: int = 0
    failed: int = 0


class Endpoint:
    """Takes messages without ever blocking, answers them one after the other.

    Args:
        settings: How the model is served; may be replaced at any time, `queue_size` and `component` excepted.
        device: Thing name of this device.
        store: Holds the model.
        outbox: Takes the answers.
    """

    def __init__(self, settings: ModelSettings, device: str, store: ModelStore, outbox: Outbox) -> None:
        self.settings = settings
        self.store = store
        self.counts = Counts()
        self._device = device
        self._outbox = outbox
        self._requests: queue.Queue[tuple[bytes, float] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"endpoint-{settings.name}", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def submit(self, payload: bytes) -> None:
        """Take a message; called from the connection's thread, so it never blocks and never raises.

        Args:
            payload: The message, any bytes. One that is too large, or for which there is no room, gets an error answer.
        """
        settings = self.settings
        try:
            check_size(payload, settings.max_request_bytes)
            if self._requests.qsize() < settings.queue_size:
                self._requests.put((payload, time.monotonic()))
            else:
                self._turn_away(payload, settings.queue_size)
        except RequestError as error:
            self._refuse(error)

    def finish(self) -> None:
        """Let the thread end behind the last of the waiting messages."""
        self._requests.put(None)

    def join(self, timeout_s: float) -> int:
        """Wait for the thread after `finish`.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left unanswered.
        """
        self._thread.join(max(timeout_s, 0))
        return self._requests.qsize() if self._thread.is_alive() else 0

    def _work(self) -> None:
        while (item := self._requests.get()) is not None:
            payload, arrived = item
            response = self._answer(payload, arrived)
            if response is not None:
                self._outbox.put(self.settings.response_topic, response, OUTBOX_WAIT_S)

    def _answer(self, payload: bytes, arrived: float) -> bytes | None:
        request_id = None
        try:
            request = parse(payload, self._device)
            if request is None:
                return None
            request_id = request.request_id
            model = self.store.wait(arrived + self.settings.model_wait_s)
            if model is None:
                raise RequestError(
                    ErrorCode.MODEL_UNAVAILABLE, f"no model is loaded yet: {self.store.problem}", request_id
                )
            started = time.perf_counter()
            prediction = model.classify(request, self.settings.top_k)
            latency_ms = (time.perf_counter() - started) * 1000
            response = answer.success(request_id, self._device, self.settings.name, prediction, latency_ms)
        except RequestError as error:
            self.counts.refused += 1
            log.info("request refused: %s: %s", error.code, error)
            return answer.failure(error.request_id, self._device, error)
        except Exception as exc:
            # Whatever one request does, the next ones are answered; the log has the trace, the client the kind.
            self.counts.failed += 1
            log.exception("request failed")
            failed = RequestError(ErrorCode.INTERNAL_ERROR, f"inference failed: {type(exc).__name__}: {exc}")
            return answer.failure(request_id, self._device, failed)
        self.counts.answered += 1
        return response

    def _turn_away(self, payload: bytes, size: int) -> None:
        request = parse(payload, self._device)
        if request is not None:
            message = f"at most {size} requests may wait, and as many do: send it again later"
            raise RequestError(ErrorCode.OVERLOADED, message, request.request_id)

    def _refuse(self, error: RequestError) -> None:
        self.counts.refused += 1
        log.warning("request refused: %s: %s", error.code, error)
        response = answer.failure(error.request_id, self._device, error)
        self._outbox.put(self.settings.response_topic, response)
