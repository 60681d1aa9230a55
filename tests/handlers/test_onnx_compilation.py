import io
import json
import platform
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from edge_handlers.onnx_compilation import OptimiserError, SourceError, WheelError, on_event
from edge_handlers.onnx_optimise import optimise
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import targz

ROOT = Path(__file__).resolve().parents[2]
MODEL = (ROOT / "edge_assets" / "models" / "digits" / "model.onnx").read_bytes()
VERSION = f"cp{sys.version_info.major}{sys.version_info.minor}"
RUNTIME = ROOT / "edge_assets/runtime/wheelhouse" / f"runtime-{VERSION}-{platform.machine()}.zip"
SOURCE = "sources/digits/SHA/model.tar.gz"


@pytest.fixture(scope="module")
def runtime() -> bytes:
    """The archive that devices install, as set-up made it."""
    return RUNTIME.read_bytes()


@pytest.fixture
def bucket(s3: FakeS3, runtime: bytes) -> FakeS3:
    s3.put("artifacts-dev", SOURCE, targz({"model.onnx": MODEL, "samples.npz": b"samples"}))
    s3.put("artifacts-dev", "artifacts/SHA/runtime.zip", runtime)
    return s3


def run(seconds: float = 300, **changes: Any) -> dict[str, Any]:
    return on_event(event.create("onnx_compilation", **changes), Context(seconds))


def test_the_devices_own_runtime_writes_a_model_that_it_can_load(bucket: FakeS3) -> None:
    answer = run()

    key = answer["Data"]["ArtifactUri"].removeprefix("s3://artifacts-dev/")
    assert key.startswith("compiled/edgewright-dev-digits-")
    with tarfile.open(fileobj=io.BytesIO(bucket.content("artifacts-dev", key) or b""), mode="r:gz") as archive:
        assert archive.getnames() == ["model.onnx"]
        member = archive.extractfile("model.onnx")
        assert member is not None
        optimised = member.read()
    assert optimised != MODEL
    session = onnxruntime.InferenceSession(optimised, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["image"]


def test_the_same_model_gives_the_same_artifact(bucket: FakeS3) -> None:
    first = run()
    content = bucket.content("artifacts-dev", first["PhysicalResourceId"].removeprefix("s3://artifacts-dev/"))

    assert run() == first
    assert len(bucket.called("upload_fileobj")) == 1
    assert content


def test_delete_keeps_what_a_package_was_made_of(s3: FakeS3) -> None:
    request = event.delete("onnx_compilation", "s3://artifacts-dev/compiled/x/model.tar.gz")

    assert on_event(request, Context()) == {"PhysicalResourceId": "s3://artifacts-dev/compiled/x/model.tar.gz"}
    assert s3.calls == []


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        ({"image": [1, 3, 8, 8]}, r"shape of input image must fit the model's .*declared is \[1, 3, 8, 8\]"),
        ({"picture": [1, 1, 8, 8]}, r"inputs must be the model's \['image'\], declared are \['picture'\]"),
    ],
)
def test_shapes_that_are_not_the_models_are_refused(bucket: FakeS3, shapes: dict[str, Any], error: str) -> None:
    with pytest.raises(OptimiserError, match=error):
        run(DataInputConfig=json.dumps(shapes))
    assert not bucket.called("upload_fileobj")


def test_a_model_that_is_none_fails_with_the_runtimes_words(bucket: FakeS3) -> None:
    bucket.put("artifacts-dev", SOURCE, targz({"model.onnx": b"no model"}))

    with pytest.raises(OptimiserError, match=r"cannot compile model\.onnx .*INVALID_PROTOBUF"):
        run()


def test_two_models_in_one_archive_are_refused(bucket: FakeS3) -> None:
    bucket.put("artifacts-dev", SOURCE, targz({"a.onnx": MODEL, "b.onnx": MODEL}))

    with pytest.raises(SourceError, match=r"exactly one \.onnx file"):
        run()


def test_a_runtime_without_a_library_is_refused(bucket: FakeS3) -> None:
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("wheels/pillow-1.whl", b"")
    bucket.put("artifacts-dev", "artifacts/SHA/runtime.zip", empty.getvalue())

    with pytest.raises(WheelError, match=f"must hold one wheel of numpy for {VERSION}, got none"):
        run()


def test_of_several_pythons_the_functions_own_is_taken(bucket: FakeS3, runtime: bytes) -> None:
    both = io.BytesIO(runtime)
    with zipfile.ZipFile(both, "a") as archive:
        for name in ("numpy", "onnxruntime"):
            archive.writestr(f"wheels/{name}-1.0-cp399-cp399-manylinux_2_28_x86_64.whl", b"of another Python")
    bucket.put("artifacts-dev", "artifacts/SHA/runtime.zip", both.getvalue())

    assert run()["Data"]["ArtifactUri"]


def test_wheels_of_other_pythons_alone_are_refused(bucket: FakeS3) -> None:
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("wheels/numpy-1.0-cp399-cp399-manylinux_2_28_x86_64.whl", b"of another Python")
    bucket.put("artifacts-dev", "artifacts/SHA/runtime.zip", other.getvalue())

    with pytest.raises(WheelError, match=rf"must hold one wheel of numpy for {VERSION}, got \['wheels/numpy-1.0-cp399"):
        run()


def test_a_runtime_that_is_no_zip_is_refused(bucket: FakeS3) -> None:
    bucket.put("artifacts-dev", "artifacts/SHA/runtime.zip", b"no zip")

    with pytest.raises(WheelError, match="must be a zip of wheels"):
        run()


@pytest.mark.parametrize("call", ["get_object", "download_fileobj", "head_object", "upload_fileobj"])
def test_access_denied_names_the_object(bucket: FakeS3, call: str) -> None:
    bucket.refuse(call, "AccessDenied")

    with pytest.raises(AwsCallError, match=r"s3://artifacts-dev/.*AccessDenied"):
        run()


def test_what_the_runtime_says_in_no_encoding_is_told(
    bucket: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "broken.py"
    program.write_text("import sys\nsys.stderr.buffer.write(b'node \\xff is none')\nsys.exit(3)\n")
    monkeypatch.setattr("edge_handlers.onnx_compilation.PROGRAM", program)

    with pytest.raises(OptimiserError, match=r"exit code 3\): node \ufffd is none$"):
        run()


def test_stops_before_the_function_is_stopped(bucket: FakeS3) -> None:
    with pytest.raises(DeadlineError, match=r"read s3://artifacts-dev/artifacts/SHA/runtime.zip"):
        run(seconds=1)


def test_compiles_models_of_texts_and_models_with_weights_in_a_folder(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    inputs = [value("text", TensorProto.STRING, ["n"]), value("x", TensorProto.FLOAT, [2])]
    outputs = [value("same", TensorProto.STRING, ["n"]), value("sum", TensorProto.FLOAT, [2])]
    nodes = [helper.make_node("Identity", ["text"], ["same"]), helper.make_node("Add", ["x", "w"], ["sum"])]
    weights = numpy_helper.from_array(np.ones(2, np.float32), "w")
    graph = helper.make_graph(nodes, "texts", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "weights").mkdir()
    save_model(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights/w.bin", size_threshold=0)

    optimise(str(tmp_path / "model.onnx"), str(tmp_path / "compiled.onnx"), {"text": [-1], "x": [2]})

    # A package has the weights where they were, beside the compiled model.
    session = onnxruntime.InferenceSession(tmp_path / "compiled.onnx", providers=["CPUExecutionProvider"])
    same, total = session.run(None, {"text": np.array(["ä"], object), "x": np.ones(2, np.float32)})
    assert (same.tolist(), total.tolist()) == (["ä"], [2, 2])
