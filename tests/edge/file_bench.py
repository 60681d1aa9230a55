"""An endpoint with the real digit model, for tests of what comes without a request."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_component.outbox import Outbox
from edge_inference.endpoint import Endpoint
from edge_inference.models.runtime import load
from edge_inference.models.store import ModelStore, load_workload
from edge_inference.settings import ModelSettings, parse
from tests.edge.digit_picture import digit_png
from tests.edge.local_device import configuration
from tests.edge.model_folder import DIGITS, make_package, point
from tests.edge.publications import Published

RESULTS = "edgewright/test/digits/results"


def serving(**changes: Any) -> ModelSettings:
    return parse(configuration(**changes))["digits"]


class Sent:
    def __init__(self) -> None:
        self.items: list[tuple[str, dict[str, Any]]] = []

    def publish(self, topic: str, payload: bytes) -> Published:
        self.items.append((topic, json.loads(payload)))
        return Published()


class Bench:
    """An endpoint with the real digit model; messages stay in the outbox until they are taken."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.outbox = Outbox()
        self.store = ModelStore(folder / "current", lambda package, _threads: load_workload(package, load))
        self.endpoint = Endpoint(serving(**changes), "thing-1", self.store, self.outbox)
        point(folder / "current", make_package(folder / "package"))
        self.store.refresh()
        self.endpoint.start()

    def messages(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        deadline = time.monotonic() + 30
        while self.outbox.waiting < count:
            self.endpoint.poll()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        found = []
        while self.outbox._memory:
            message = self.outbox._memory.popleft()
            found.append((message.topic, json.loads(message.payload)))
            if message.on_safe:
                message.on_safe()
        return found


def digit(index: int) -> bytes:
    with np.load(DIGITS / "samples.npz") as samples:
        return digit_png(samples["images"][index])
