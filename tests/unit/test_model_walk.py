"""The way of a model from the stage's file to the classifier on a device: few files, counted with a profiler."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import boto3
import pytest

from config.loader import load_stage, read_context
from config.model import Model
from edge_constructs.model_source import ModelSource
from edge_constructs.synth import new_app
from edge_handlers import component_library, model_package, service_client
from edge_inference.messages import Request
from edge_inference.models.integrity import parse_key
from edge_inference.models.runtime import load
from edge_inference.models.store import ModelStore, load_workload
from stacks import edgewright
from stacks.inference_stack import InferenceStack
from stacks.models_stack import ModelsStack, PackagedModel
from tests.edge.file_bench import digit
from tests.edge.model_folder import DIGITS, ROOT, point
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_kms import FakeKms
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import targz

P = ParamSpec("P")
R = TypeVar("R")
STAGE = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[fleet]\ndevices = ["line-1"]\n'
MOST = 25
#: What every stack and every function asks on its way: names, rights, reasons, time left, clients.
ASKED = {
    "config/names.py",
    "constructs/edge_constructs/permission.py",
    "constructs/edge_handlers/service_client.py",
}


class Walk:
    """Files of which a function is handed a model: its name, its folder, its declaration or what is made of them."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def through(self, function: Callable[P, R]) -> Callable[P, R]:
        """Look on while a function runs, in this thread."""

        def run(*arguments: P.args, **named: P.kwargs) -> R:
            sys.setprofile(self._note)
            try:
                return function(*arguments, **named)
            finally:
                sys.setprofile(None)

        return run

    def _note(self, frame: FrameType, event: str, _argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(f"{ROOT}/") and "/.venv/" not in path and "/tests/" not in path:
            file = Path(path).relative_to(ROOT).as_posix()
            if file not in self.files and any(is_of_the_model(value) for value in frame.f_locals.values()):
                self.files.add(file)


def is_of_the_model(value: object, depth: int = 2) -> bool:
    if isinstance(value, str | Path):
        return "digits" in str(value).lower()
    if isinstance(value, bytes):
        return b"digits" in value
    if isinstance(value, dict) and depth:
        return any(is_of_the_model(each, depth - 1) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple) and depth:
        return any(is_of_the_model(each, depth - 1) for each in value)
    return isinstance(value, Model | ModelSource | PackagedModel)


def test_a_model_passes_few_files_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.toml").write_text(STAGE, encoding="utf-8")
    walk, s3, kms, greengrass = Walk(), FakeS3(), FakeKms(), FakeGreengrass()
    clients = {"s3": s3, "kms": kms, "greengrassv2": greengrass}
    monkeypatch.setattr(boto3, "client", lambda service, **_: clients[service])
    service_client.client.cache_clear()
    s3.put(
        "artifacts-dev",
        "sources/digits/SHA/model.tar.gz",
        targz({name: (DIGITS / name).read_bytes() for name in ("model.onnx", "samples.npz", "reference.json")}),
    )

    # The stage's file, the models' stack, and its part of the stack that deploys.
    stage = walk.through(load_stage)("lab", tmp_path)
    monkeypatch.setattr(edgewright, "ModelsStack", walk.through(ModelsStack))
    monkeypatch.setattr(InferenceStack, "_model", walk.through(InferenceStack._model))
    edgewright.define_stacks(new_app(read_context(), outdir=tmp_path / "out"), stage)
    # The functions that pack and sign it, and make its component's version.
    manifest = (DIGITS / "model.json").read_text(encoding="utf-8")
    request = event.create("model_package", CompiledUri="", Manifest=manifest, SigningKeyId="key")
    packed = walk.through(model_package.on_event)(request, Context(300))["Data"]
    version = event.create("component_version")
    text = json.dumps(version).replace("dev.Inference", "dev.model.Digits")
    walk.through(component_library.on_event)(json.loads(text), Context(300))
    # The device: verified, loaded, asked.
    with zipfile.ZipFile(io.BytesIO(s3.content("artifacts-dev", packed["Key"]) or b"")) as archive:
        archive.extractall(tmp_path / "digits")
    point(tmp_path / "current", tmp_path / "digits")
    key = parse_key(packed["PublicKey"])
    store = ModelStore(tmp_path / "current", lambda folder, _threads: load_workload(folder, load, key))
    walk.through(store.refresh)()
    assert store.model, store.problem
    prediction = walk.through(store.model.predict)(Request(None, image=digit(0)), 1)
    service_client.client.cache_clear()

    assert prediction.scores[0].label == "7"
    assert greengrass.called("create_component_version")
    way = walk.files - ASKED
    assert {Path(file).name for file in way} >= {
        *("stage.py", "models_stack.py", "model_source.py", "inference_stack.py"),
        *("component_library.py", "store.py", "package.py", "integrity.py", "runtime.py", "workloads.py"),
    }
    assert len(way) <= MOST, "\n".join(sorted(way))
