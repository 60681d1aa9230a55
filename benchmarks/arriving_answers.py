"""What arrives on a topic of a deployed twin, kept by request id."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from benchmarks.deployed_twin import RESPONSE
from twin.operator import OperatorClient


class Answers:
    """What arrives on a topic: moments and request ids in the order of arrival, and the last message of each id."""

    def __init__(self, heard: SimpleQueue[bytes]) -> None:
        self.ids: list[str] = []
        self.moments: list[float] = []
        self.messages: dict[str, dict[str, Any]] = {}
        self.arrived = threading.Condition()
        self._heard = heard
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._take, daemon=True)

    def wait(self, met: Callable[[], bool], limit_s: float) -> bool:
        """Wait until something about the answers is so, at most so long; tells whether it is."""
        with self.arrived:
            return self.arrived.wait_for(met, limit_s)

    def all_of(self, names: Sequence[str], limit_s: float) -> list[str]:
        """Wait for the answers of so many requests; gives those without one."""
        self.wait(lambda: self.messages.keys() >= set(names), limit_s)
        return [name for name in names if name not in self.messages]

    def _take(self) -> None:
        while not self._ended.is_set():
            with suppress(Empty):
                message = json.loads(self._heard.get(timeout=0.1))
                with self.arrived:
                    self.moments.append(time.monotonic())
                    self.ids.append(str(message.get("request_id")))
                    self.messages[self.ids[-1]] = message
                    self.arrived.notify_all()

    @classmethod
    @contextmanager
    def of(cls, operator: OperatorClient, topic: str = RESPONSE) -> Iterator["Answers"]:
        """Listen to a topic while in the block."""
        with operator.listen(topic) as heard:
            answers = cls(heard)
            answers._thread.start()
            try:
                yield answers
            finally:
                answers._ended.set()
                answers._thread.join()
