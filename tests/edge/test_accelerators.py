"""Where models run: the provider that was asked for, or the processor with a reason."""

import json
import logging
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from config.edge_server import CPU, WHEELS, Accelerator
from edge_component.outbox import Outbox
from edge_inference.heartbeat import Heartbeat
from edge_inference.messages import Request
from edge_inference.models import runtime
from edge_inference.models.runtime import PROVIDERS, OnnxModel, Running
from edge_inference.models.store import load_workload
from edge_inference.settings import ACCELERATORS
from tests.edge.file_bench import Bench, serving
from tests.edge.model_folder import ROOT, make_package
from tools.locks import METADATA
from tools.wheelhouse import RUNTIME, Target, WheelhouseError, accelerated, archive_path, read_lock, read_locks

OPENVINO = ROOT / ".venv-openvino" / "bin" / "python"


def loaded(folder: Path, accelerator: str, refused: str = "") -> OnnxModel:
    running = Running(accelerator=accelerator, refused=refused)
    model = load_workload(make_package(folder), lambda package: runtime.load(package, running))
    assert model.predict(Request(None, index=3), 1).scores, "it serves, wherever it runs"
    found = model.runtime
    assert isinstance(found, OnnxModel)
    return found


def test_stage_device_and_runtime_know_the_same_accelerators() -> None:
    assert get_args(Accelerator) == ACCELERATORS == tuple(PROVIDERS)
    assert (CPU, *WHEELS) == ACCELERATORS


@pytest.mark.parametrize("accelerator", list(WHEELS))
def test_a_device_that_lacks_the_provider_runs_on_its_processor_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, accelerator: str
) -> None:
    model = loaded(tmp_path / "package", accelerator)

    wanted = " and no ".join(PROVIDERS[accelerator])
    assert model.session.get_providers() == ["CPUExecutionProvider"]
    assert model.fallback == f"this device's ONNX Runtime has no {wanted}"
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING][1:] == [
        f"{tmp_path}/package/model.onnx does not run by {accelerator}: {model.fallback}"
    ]


def test_without_an_accelerator_nothing_is_said(tmp_path: Path) -> None:
    assert loaded(tmp_path / "1", CPU).fallback == ""
    # What it could not run when it was tried is told, too.
    assert loaded(tmp_path / "2", "cuda", refused="out of memory").fallback == "out of memory"


class Engine:
    """ONNX Runtime with providers that it says it has, of which some start."""

    def __init__(self, there: list[str], failing: str = "", silent: str = "") -> None:
        self._real = runtime.import_engine()
        self.there, self.failing, self.silent = there, failing, silent
        self.asked: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return [*self.there, "CPUExecutionProvider"]

    def InferenceSession(self, model: bytes, providers: list[Any], **more: Any) -> Any:  # noqa: N802 - the library's
        names = [each if isinstance(each, str) else each[0] for each in providers]
        self.asked.append(names)
        if self.failing in names:
            raise RuntimeError(f"{self.failing}: cannot open\n  libcudnn.so.9")
        session = self._real.InferenceSession(model, providers=["CPUExecutionProvider"], **more)
        started = [name for name in names if name != self.silent]
        return SimpleNamespace(
            run=session.run,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            get_providers=lambda: started,
        )


TENSORRT, CUDA = PROVIDERS["tensorrt"]


@pytest.mark.parametrize(
    ("accelerator", "engine", "asked", "fallback"),
    [
        ("cuda", {"there": [CUDA]}, [[CUDA]], ""),
        ("tensorrt", {"there": [TENSORRT, CUDA]}, [[TENSORRT, CUDA]], ""),
        ("tensorrt", {"there": [CUDA]}, [[CUDA]], f"{TENSORRT} does not start, it runs on {CUDA}"),
        ("tensorrt", {"there": [TENSORRT, CUDA], "silent": TENSORRT}, [[TENSORRT, CUDA]], f"it runs on {CUDA}"),
        ("cuda", {"there": [CUDA], "silent": CUDA}, [[CUDA], []], "it runs on CPUExecutionProvider"),
        ("cuda", {"there": [CUDA], "failing": CUDA}, [[CUDA], []], f"{CUDA}: cannot open libcudnn.so.9"),
    ],
)
def test_providers_are_tried_in_their_order_and_a_card_that_does_not_start_is_no_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    engine: dict[str, Any],
    asked: list[list[str]],
    fallback: str,
) -> None:
    fake = Engine(**engine)
    monkeypatch.setattr(runtime, "import_engine", lambda: fake)

    model = loaded(tmp_path / "package", accelerator)

    assert fake.asked == [[*names, "CPUExecutionProvider"] for names in asked]
    assert model.fallback.endswith(fallback)
    assert bool(model.fallback) == bool(fallback)


def test_the_heartbeat_counts_models_that_run_elsewhere_than_they_were_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "device")
    heartbeat = Heartbeat("thing-1", Outbox())
    assert "accelerator" not in json.loads(heartbeat.message([bench.endpoint]))

    bench.endpoint.settings = replace(serving(), accelerator="openvino")
    assert bench.endpoint.running == Running(bench.endpoint.threads, "openvino")
    assert json.loads(heartbeat.message([bench.endpoint]))["accelerator"] == {"fallbacks": 0}
    model = bench.store.model
    assert model is not None
    assert isinstance(model.runtime, OnnxModel)
    model.runtime.fallback = "this device's ONNX Runtime has no OpenVINOExecutionProvider"

    message = json.loads(heartbeat.message([bench.endpoint]))

    assert message["accelerator"] == {"fallbacks": 1}
    assert message["models"]["digits"]["fallback"] == model.runtime.fallback


def test_the_locks_of_accelerators_pin_what_the_repository_pins() -> None:
    pinned = read_locks([ROOT / "requirements-openvino.txt"]) | read_locks([ROOT / "requirements-cuda.txt"])

    for lock in {wheels.lock for wheels in WHEELS.values()}:
        ((name, pin),) = read_lock(RUNTIME / lock).items()
        assert pin == pinned[name]
        facts = json.loads((ROOT / METADATA).read_text())[f"{name}=={pin.version}"]["wheels"]
        known = next(wheels for wheels in WHEELS.values() if wheels.lock == lock)
        # manylinux_2_34 is newer than the oldest device.
        found = {tuple(tag.split("-manylinux_2_28_")) for tag in facts if "manylinux_2_28_" in tag}
        tags = [f"cp{python.replace('.', '')}" for python in known.pythons]
        assert found == {(f"{tag}-{tag}", architecture) for tag in tags for architecture in known.architectures}


def test_another_build_takes_the_place_of_the_plain_one(tmp_path: Path) -> None:
    lock = (RUNTIME / "requirements.lock").read_bytes()

    (tmp_path / "lock").write_bytes(accelerated(lock, (RUNTIME / "openvino.lock").read_bytes()))

    plain, found = read_lock(RUNTIME / "requirements.lock"), read_lock(tmp_path / "lock")
    assert plain.keys() - found.keys() == {"onnxruntime"}
    assert found.keys() - plain.keys() == {"onnxruntime-openvino"}
    with pytest.raises(WheelhouseError, match="must pin onnxruntime once, got 0"):
        accelerated(b"numpy==1\n", b"")
    assert archive_path(Target("3.11", "x86_64", accelerator="openvino")).name == "runtime-cp311-x86_64-openvino.zip"
    with pytest.raises(ValueError, match="accelerator must be one of cpu, openvino, cuda, tensorrt, got 'npu'"):
        Target("3.11", "x86_64", accelerator="npu")


@pytest.mark.openvino
@pytest.mark.skipif(not OPENVINO.is_file(), reason="make openvino makes its environment")
@pytest.mark.timeout(600)
def test_openvino_says_of_every_held_out_input_what_the_processors_provider_says(tmp_path: Path) -> None:
    command = [str(OPENVINO), str(ROOT / "benchmarks" / "accelerators.py"), "openvino", "--runs", "5"]

    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows")], capture_output=True, text=True, timeout=500, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["model"]: row for row in json.loads((tmp_path / "rows").read_text())}
    assert {name: row["inputs"] for name, row in rows.items()} == {
        "digits": 360,
        "iris": 45,
        "digit-detector": 60,
        "image-classification": 100,
    }
    assert all(row["same"] == row["inputs"] and row["difference"] < 1e-3 for row in rows.values())
