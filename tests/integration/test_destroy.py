"""What a destroy leaves behind, whatever became of the deploy. The tests run in this order, on one twin."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.app_copy import copy_app
from tools.offline_deploy import CdkError, OfflineDeploy
from twin import inventory, lifecycle
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]


class KilledError(Exception):
    """Stands for a terminal that is closed: the command line ends where it is."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the app."""
    return copy_app(tmp_path_factory.mktemp("destroy") / "app")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("state") / "twin"
    try:
        yield lifecycle.start(home, auth=True)
    finally:
        lifecycle.stop(home)


@pytest.fixture(scope="module")
def first(app: Path, twin: TwinState, tmp_path_factory: pytest.TempPathFactory) -> OfflineDeploy:
    """The stage `twin`, synthesised, in a bootstrapped account."""
    deploy = OfflineDeploy(environment=twin.environment(), out=tmp_path_factory.mktemp("out"), app=app)
    deploy.synth()
    deploy.bootstrap()
    return deploy


def left(state: TwinState) -> list[str]:
    """Everything in the account but the bootstrap."""
    found = inventory.take(state)
    return [f"{kind} {name}" for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names]


def test_a_deploy_that_was_killed_half_way_is_taken_away(first: OfflineDeploy, twin: TwinState) -> None:
    def kill(line: str) -> None:
        if "edgewright-twin-models" in line and "deploying" in line:
            raise KilledError

    with pytest.raises(KilledError):
        replace(first, on_line=kill).deploy()
    assert left(twin), "nothing was deployed before the kill: the test would prove nothing"

    first.destroy()

    assert left(twin) == []


def test_a_deploy_that_fails_on_the_device_fails_with_its_reason_and_is_taken_away(
    twin: TwinState, tmp_path: Path
) -> None:
    app = copy_app(tmp_path / "app")
    script = app / "edge_assets" / "run.sh"
    script.write_text(script.read_text().replace("set -eu\n", "set -eu\necho 'broken on purpose' >&2; exit 3\n", 1))
    broken = OfflineDeploy(environment=twin.environment(), out=tmp_path / "out", app=app)
    broken.synth()
    events: list[str] = []

    with pytest.raises(CdkError):
        replace(broken, on_line=events.append).deploy()

    (told,) = {line[line.index("deployment ") :] for line in events if "CREATE_FAILED" in line and "Health" in line}
    assert "of ring all failed on 1 of 1 devices: edgewright-twin-edge-server FAILED" in told
    # All start by that script; which one the device gives up first is a matter of moments.
    assert re.search(r"component edgewright\.twin\.(Inference|handler\.DigitsV1) 1\.", told)
    assert "the run step exited with 3, its last output was: broken on purpose" in told

    broken.destroy()

    assert left(twin) == []


def test_a_deploy_that_fails_in_the_compiler_leaves_no_job(twin: TwinState, tmp_path: Path) -> None:
    app = copy_app(tmp_path / "app")
    digits = app / "edge_assets" / "models" / "digits"
    declared = json.loads((digits / "model.json").read_text())
    # Devices run the ONNX file, which synth loads; the compiler gets another source.
    declared["compilation"] = {
        "framework": "PYTORCH",
        "frameworkVersion": "1.8",
        "source": "model.pt",
        "inputs": [{"name": "input0", "shape": [1, 1, 8, 8]}],
    }
    (digits / "model.json").write_text(json.dumps(declared))
    (digits / "model.pt").write_bytes(b"no model at all")
    broken = OfflineDeploy(environment=twin.environment(), out=tmp_path / "out", app=app)
    broken.synth()
    events: list[str] = []

    with pytest.raises(CdkError):
        replace(broken, on_line=events.append).deploy()

    assert any("CREATE_FAILED" in line and "Custom::NeoCompilation" in line for line in events)
    jobs = broken.client("sagemaker").list_compilation_jobs(NameContains="edgewright-twin-digits")
    assert jobs["CompilationJobSummaries"] == []

    broken.destroy()

    assert left(twin) == []
