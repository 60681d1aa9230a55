"""The way of a request through the component: few modules, so that who reads it need not hop."""

import base64
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from edge_component.ipc import Side
from edge_component.outbox import Outbox
from edge_inference.endpoint import Endpoint
from edge_inference.models.runtime import load
from edge_inference.models.store import ModelStore, load_workload
from edge_inference.service import Router
from edge_inference.settings import ModelSettings, parse
from tests.edge.file_bench import digit
from tests.edge.local_device import configuration
from tests.edge.model_folder import ROOT, make_package, point
from tests.edge.publications import Published

CODE = ROOT / "edge_assets" / "inference"
#: Of what a picture's request passes; the client of the IPC, `edge_component/greengrass_ipc.py`, is the ninth.
WALK = {
    "edge_inference/service.py",
    "edge_inference/endpoint.py",
    "edge_inference/pipeline.py",
    "edge_inference/messages.py",
    "edge_inference/models/workloads.py",
    "edge_inference/models/pictures.py",
    "edge_inference/models/runtime.py",
    "edge_component/outbox.py",
}
#: A part of the outbox, which it asks at every message.
PARTS = {"edge_component/__init__.py"}


@pytest.fixture
def passed() -> Iterator[set[str]]:
    """Modules of the component whose code runs, in this thread and in those that start from now on."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _argument: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(CODE):
            found.add(file.relative_to(CODE).as_posix())

    threading.setprofile(note)
    sys.setprofile(note)
    yield found
    sys.setprofile(None)
    threading.setprofile(None)


class Client:
    """A device's connection that holds what is subscribed, and tells when something is published."""

    def __init__(self) -> None:
        self.deliver: Callable[[bytes], None] = lambda _payload: None
        self.answers: list[dict[str, Any]] = []
        self.answered = threading.Event()

    def subscribe(self, _topic: str, on_message: Callable[[bytes], None], _side: Side) -> Any:
        self.deliver = on_message
        return SimpleNamespace(close=lambda: None)

    def publish(self, _topic: str, payload: bytes) -> Published:
        self.answers.append(json.loads(payload))
        self.answered.set()
        return Published()


def test_a_request_passes_nine_modules_on_its_way(passed: set[str], tmp_path: Path) -> None:
    point(tmp_path / "current", make_package(tmp_path / "package"))
    store = ModelStore(tmp_path / "current", lambda folder, _threads: load_workload(folder, load))
    store.refresh()
    outbox, client = Outbox(), Client()

    def make_endpoint(settings: ModelSettings) -> Endpoint:
        endpoint = Endpoint(settings, "thing-1", store, outbox)
        endpoint.start()
        return endpoint

    router = Router(make_endpoint)
    router.apply(client, parse(configuration()))  # type: ignore[arg-type]
    outbox.attach(client)
    threading.Thread(target=outbox.run, daemon=True).start()
    message = json.dumps({"image": base64.b64encode(digit(0)).decode()}).encode()
    passed.clear()

    client.deliver(message)
    assert client.answered.wait(30)
    way = passed - PARTS

    outbox.close()
    router.finish(5)
    assert client.answers[0]["label"] == "7"
    assert way == WALK
