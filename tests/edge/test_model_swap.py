"""A model is replaced while requests keep coming: none is lost, none answered twice, none waits for the new one."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.edge.local_device import LocalDevice, configuration
from tests.edge.test_component_process import Component, end

VERSIONS = ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0"]


@pytest.mark.timeout(120)
def test_every_request_is_answered_once_while_models_are_swapped(tmp_path: Path) -> None:
    config = configuration(queueSize=10_000)
    with LocalDevice(tmp_path / "ipc.sock", config) as device:
        component = Component(tmp_path, device)
        try:
            component.use_model(VERSIONS[0])
            device.wait_for_subscription()
            component.wait_for_log(f"model digits {VERSIONS[0]} in use")
            swapped, sent = threading.Event(), list[str]()

            def ask() -> None:
                while not swapped.wait(0.005):
                    sent.append(str(len(sent)))
                    device.send({"request_id": sent[-1], "index": len(sent) % 360})

            traffic = threading.Thread(target=ask)
            traffic.start()
            for version in VERSIONS[1:]:
                component.use_model(version)
                component.wait_for_log(f"model digits {version} in use")
            swapped.set()
            traffic.join()
            device.send({"request_id": "last", "index": 1})
            answers: list[dict[str, Any]] = []
            while not answers or answers[-1]["request_id"] != "last":
                answers.append(device.answer())
        finally:
            end(component.process)

    assert [answer["request_id"] for answer in answers] == [*sent, "last"], "all, in order, once"
    assert all("label" in answer for answer in answers), "the old model serves until the new one has run"
    served = [answer["model"]["version"] for answer in answers]
    assert served == sorted(served), "no way back to an older model"
    assert set(served) == set(VERSIONS)
    assert device.answers.empty()
