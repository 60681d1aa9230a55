"""Settings that another component's configuration carries, read and followed by the real SDK client."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_component import greengrass_ipc
from edge_component.greengrass_ipc import GreengrassIpc, SharedSettings, connect, merged
from edge_component.ipc import IpcError, RefusedError
from tests.edge.local_device import CARRIER, COMPONENT, LocalDevice, configuration


def carried(revision: str | None = "1", **settings: Any) -> dict[str, Any]:
    return {"settings": {COMPONENT: settings, **({"revision": revision} if revision else {})}}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalDevice]:
    with LocalDevice(tmp_path / "ipc.sock", configuration()) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def ipc(device: LocalDevice) -> Iterator[GreengrassIpc]:
    del device
    client = connect(lambda: None, SharedSettings(CARRIER, COMPONENT))
    yield client
    client.close()


def test_the_carriers_settings_win_key_by_key(device: LocalDevice, ipc: GreengrassIpc) -> None:
    device.carried = carried(models={"digits": {"topK": 1}}, signingKey="k")

    found: Any = ipc.configuration()

    assert found == {**configuration(topK=1), "signingKey": "k"}


def test_a_model_that_the_settings_do_not_list_any_more_is_gone(device: LocalDevice, ipc: GreengrassIpc) -> None:
    device.config["models"]["iris"] = {"component": "edgewright.dev.model.Iris", "requestTopic": "r"}
    device.carried = carried(models={"digits": {"topK": 1}})

    found: Any = ipc.configuration()

    assert set(found["models"]) == {"digits"}


def test_a_component_hears_of_a_change_of_its_carrier(device: LocalDevice, ipc: GreengrassIpc) -> None:
    device.carried = carried()
    told = threading.Event()

    ipc.watch_configuration(told.set)
    device.configure(device.config)

    assert told.wait(30)
    assert len(device._watchers) == 2


def test_settings_that_are_being_replaced_are_waited_for(
    device: LocalDevice, ipc: GreengrassIpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greengrass_ipc, "SETTINGS_LIMIT_S", 30)
    device.carried = carried(revision=None)

    def arrive(_pause_s: float) -> None:
        device.carried = carried(topic="t")

    monkeypatch.setattr(time, "sleep", arrive)
    found: Any = ipc.configuration()

    assert found["topic"] == "t"


@pytest.mark.parametrize("content", [None, {}, {"settings": {}}, carried(revision=None)])
def test_without_settings_another_attempt_is_made(
    device: LocalDevice, ipc: GreengrassIpc, monkeypatch: pytest.MonkeyPatch, content: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(greengrass_ipc, "SETTINGS_LIMIT_S", 0)
    device.carried = content

    with pytest.raises(IpcError, match=f"settings of {COMPONENT} from {CARRIER}: it must hold settings") as caught:
        ipc.configuration()
    # The process would end.
    assert not isinstance(caught.value, RefusedError)


def test_a_carrier_that_is_not_deployed_yet_is_no_refusal(device: LocalDevice, ipc: GreengrassIpc) -> None:
    del device

    with pytest.raises(IpcError, match="not deployed yet") as caught:
        ipc.watch_configuration(lambda: None)
    assert not isinstance(caught.value, RefusedError)


def test_objects_are_merged_and_all_else_is_replaced() -> None:
    assert merged({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None}) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert merged({"a": 1}, None) == {"a": 1}


def test_the_carrier_is_known_by_its_pointer_file() -> None:
    assert SharedSettings.beside(Path("/w/stage.Runtime/current"), "c") == SharedSettings("stage.Runtime", "c")
    assert SharedSettings.beside(Path("/w/stage.Runtime/current"), None) is None
    assert SharedSettings.beside(None, "c") is None
