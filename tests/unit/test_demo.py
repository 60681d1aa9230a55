"""What keeps two demos apart, and how its site comes and goes."""

import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from config.names import Names
from tools import demo, predictions
from tools.demo import alone
from tools.offline_deploy import DeploymentError
from tools.predictions import PredictionError
from twin import TwinError


def test_one_demo_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with pytest.raises(typer.BadParameter, match="one demo at a time"), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):
            pass

    with alone(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(typer.BadParameter, match=r"must be writable, got .*file/run"), alone(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("ignored", [True, False])
def test_a_demo_under_nohup_outlives_its_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ignored: bool
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    seen: list[object] = []

    def run(_out: Path) -> None:
        seen.append(signal.getsignal(signal.SIGHUP))
        raise TwinError("enough")

    monkeypatch.setattr(demo, "run", run)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        assert demo._demonstrate(tmp_path, tmp_path / "demo.json") == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert (seen == [signal.SIG_IGN]) is ignored


def test_a_client_device_that_takes_too_long_is_an_error_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(command: list[str], **_arguments: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(predictions.subprocess, "run", too_long)  # type: ignore[attr-defined]

    with pytest.raises(PredictionError, match=r"camera: \w+\.py predict: must end within \d+ s, it did not"):
        predictions._run_client(tmp_path / "camera", "predict")


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What joins and leaves, with a cloud in which a deployment never ends."""
    did: list[str] = []

    class Clients:
        def __init__(self, *_: Any) -> None:
            pass

        def remove(self, thing: str) -> None:
            did.append(f"{thing} leaves")

    class Greengrass:
        exceptions = SimpleNamespace(ResourceNotFoundException=KeyError)

        def list_effective_deployments(self, **of: str) -> dict[str, Any]:
            if of["coreDeviceThingName"] == "device-01":
                raise KeyError
            return {"effectiveDeployments": [{"deploymentId": "1"}]}

        def get_deployment(self, **_: Any) -> dict[str, Any]:
            return {"components": {}}

        def create_deployment(self, **_: Any) -> dict[str, str]:
            did.append("deployment")
            return {"deploymentId": "2"}

    def set_count(_state: Any, count: int, **_: Any) -> list[str]:
        did.append(f"{count} devices")
        return ["device-01"][:count]

    monkeypatch.setattr(predictions.client_device, "ClientDevices", Clients)  # type: ignore[attr-defined]
    monkeypatch.setattr(predictions, "set_own_devices", set_count)
    monkeypatch.setattr(predictions.boto3, "client", lambda *_, **__: Greengrass())  # type: ignore[attr-defined]
    return did


def site_in(folder: Path) -> predictions.Site:
    state: Any = SimpleNamespace(region="r", account="0", client_arguments=dict)
    return predictions.Site(state, Names("twin"), folder)


def test_a_site_that_nobody_waits_for_any_more_ends_its_wait(tmp_path: Path, joining: list[str]) -> None:
    stopped, told = threading.Event(), list[str]()

    def hear(text: str) -> None:
        told.append(text)
        stopped.set()

    with pytest.raises(predictions.SiteStoppedError, match="device-01 is not waited for any more, it is not joined"):
        site_in(tmp_path).prepare(stopped, hear)

    assert joining == ["1 devices", "deployment"]
    assert told == ["device-01: not joined"]


def test_a_site_waits_for_what_the_stages_device_gets(
    tmp_path: Path, joining: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, stopped = list[str](), threading.Event()
    found = predictions._effective

    def of_a_deploy(greengrass: Any, core: str) -> list[dict[str, Any]] | None:
        asked.append(core)
        if core == "device-01":
            stopped.set()
        return None if len(asked) == 1 else [] if len(asked) == 2 else found(greengrass, core)

    monkeypatch.setattr(predictions, "_effective", of_a_deploy)
    with pytest.raises(predictions.SiteStoppedError, match="device-01 is not waited for any more"):
        site_in(tmp_path).prepare(stopped)

    assert asked == ["edgewright-twin-edge-server"] * 3 + ["device-01"]
    assert joining == ["1 devices", "deployment"]

    joining.clear()
    monkeypatch.setattr(predictions, "_effective", lambda *_: None)
    with pytest.raises(predictions.SiteStoppedError, match="edgewright-twin-edge-server is not waited for any more"):
        site_in(tmp_path).prepare(stopped)
    monkeypatch.setattr(predictions, "_BEGIN_S", -1)
    with pytest.raises(DeploymentError, match="a deployment to edgewright-twin-edge-server must begin"):
        site_in(tmp_path).prepare()
    assert joining == []


def test_a_site_that_is_prepared_anew_begins_without_what_was_left(tmp_path: Path, joining: list[str]) -> None:
    site, stopped = site_in(tmp_path), threading.Event()
    stopped.set()
    with pytest.raises(predictions.SiteStoppedError):
        site.prepare(stopped)
    joining.clear()

    with pytest.raises(predictions.SiteStoppedError):
        site.prepare(stopped)

    assert joining == ["camera-1 leaves", "0 devices", "1 devices", "deployment"]
