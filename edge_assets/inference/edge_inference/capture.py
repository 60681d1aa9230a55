"""Chooses which inputs and outputs are kept for later training, and writes them to disk without holding anything up."""

import logging
import queue
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from edge_inference.answer import Prediction
from edge_inference.capture_folder import CaptureFolder
from edge_inference.configuration import ModelSettings
from edge_inference.request import Request

log = logging.getLogger(__name__)

#: Predictions that wait to be written at most; pictures may have megabytes.
WAITING = 32
SAMPLED, UNCERTAIN = "sampled", "low-confidence"


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
