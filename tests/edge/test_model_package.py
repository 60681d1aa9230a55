import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inference.messages import ErrorCode, Request, RequestError
from edge_inference.models.package import ModelPackageError, open_package
from edge_inference.models.runtime import load
from edge_inference.models.store import load_workload
from tests.edge.model_folder import DIGITS, describe, make_package
from tools.onnx_graphs import perceptron


def _cut_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])


def _change_model(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "model.onnx must have 77163 bytes, got 77162": _cut_model,
    "model.onnx must have the SHA-256": _change_model,
    "samples.npz cannot be read: No such file": lambda folder: (folder / "samples.npz").unlink(),
    "manifest.json cannot be read: No such file": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json must be JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "manifest.json must be a JSON object, got list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest.json must have at most": lambda folder: (folder / "manifest.json").write_text(" " * (2 << 20)),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_finds_a_file_that_is_not_what_was_shipped(reason: str, tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package")
    DAMAGES[reason](folder)

    with pytest.raises(ModelPackageError) as caught:
        open_package(folder)

    assert reason in str(caught.value)
    assert str(folder) in str(caught.value)


FILES = {"sha256": "0" * 64, "bytes": 1}
WRONG: dict[str, dict[str, Any]] = {
    "inputs is required": {"inputs": None},
    "labels must be a list": {"labels": "0123456789"},
    "outputs must hold one tensor": {"outputs": []},
    "inputs dtype must be float32": {"inputs": [{"name": "image", "dtype": "int64", "shape": [1, 1, 8, 8]}]},
    "mean and std must be left out": {
        "inputs": [{"name": "image", "dtype": "uint8", "shape": [1, 1, 8, 8]}],
        "preprocessing": {"width": 8, "height": 8, "mode": "L", "mean": [0.5], "std": [1]},
    },
    "preprocessing must hold .* got means": {
        "preprocessing": {"width": 8, "height": 8, "mode": "L", "means": [0.5], "std": [1]}
    },
    r"labels\[1\] must be a text that is not empty, or a whole number, got ''": {"labels": ["a", "", *"bcdefghi"]},
    r"labels\[0\] must be a text .* got None": {"labels": [None, *"bcdefghij"]},
    "a size must be a whole number": {"inputs": [{"name": "image", "dtype": "float32", "shape": [1, 1, "8", 8]}]},
    "which preprocessing makes": {"inputs": [{"name": "image", "dtype": "float32", "shape": [1, 64]}]},
    "one value a label": {"labels": ["a", "b"]},
    "std must not be 0": {"preprocessing": {"width": 8, "height": 8, "mode": "L", "mean": [0], "std": [0]}},
    "a factor must be a number": {"preprocessing": {"width": 8, "height": 8, "mode": "L", "mean": [""], "std": [1]}},
    "a factor must be a number below 1e[+]38, got 1000": {
        "preprocessing": {"width": 8, "height": 8, "mode": "L", "mean": [10**400], "std": [1]}
    },
    "a factor must be a number below 1e[+]38, got inf": {
        "preprocessing": {"width": 8, "height": 8, "mode": "L", "std": [float("inf")]}
    },
    "a factor must be a number below 1e[+]38, got nan": {"samples": {"file": "samples.npz", "maximum": float("nan")}},
    "samples.maximum must be above 0": {"samples": {"file": "samples.npz", "maximum": 0}},
    "samples.file must be one of files": {"samples": {"file": "../x", "maximum": 1}},
    "files must hold model.onnx": {"files": {"samples.npz": FILES}},
    "files must lie inside the package": {"files": {"../x": FILES, "model.onnx": FILES}},
    "files must be an object": {"files": []},
}


@pytest.mark.parametrize("reason", WRONG)
def test_names_what_is_wrong_in_the_manifest(reason: str, tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package", **WRONG[reason])

    with pytest.raises(ModelPackageError, match=reason) as caught:
        open_package(folder)

    assert "manifest.json" in str(caught.value)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_manifest_is_refused_by_name(tmp_path: Path, manifest: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(ModelPackageError):
        open_package(tmp_path)


def _other_model(folder: Path, *, name: str = "image", shape: tuple[int, ...] = (1, 1, 8, 8), bias: float = 0) -> None:
    weights = np.zeros((int(np.prod(shape)), 10))
    model = perceptron("other", name, shape, "logits", [(weights, np.full(10, bias))])
    onnx.save(model, folder / "model.onnx")


REFUSED: dict[str, Callable[[Path], Any]] = {
    "does not load": lambda folder: (folder / "model.onnx").write_bytes(b"no model"),
    "input must be named 'image', got": lambda folder: _other_model(folder, name="x"),
    "input image must have the shape": lambda folder: _other_model(folder, shape=(1, 64)),
    "must answer with finite values": lambda folder: _other_model(folder, bias=np.inf),
    "samples must have the shape": lambda folder: np.savez(folder / "samples.npz", images=np.zeros((3, 9, 9))),
    "values must be real numbers, got complex64": lambda folder: np.savez(
        folder / "samples.npz", images=np.zeros((1, 8, 8), np.complex64)
    ),
    r"values must be real numbers, got datetime64\[D\]": lambda folder: np.savez(
        folder / "samples.npz", images=np.zeros((1, 8, 8), "M8[D]")
    ),
    "values must be real numbers, got <U1": lambda folder: np.savez(
        folder / "samples.npz", images=np.full((1, 8, 8), "1")
    ),
    "images must be from 0 to 16, got 0 to 255: set samples.maximum": lambda folder: np.savez(
        folder / "samples.npz", images=np.array([[[0] * 8] * 4 + [[255] * 8] * 4], np.uint8)
    ),
    "images must be from 0 to 16, got nan to nan": lambda folder: np.savez(
        folder / "samples.npz", images=np.full((1, 8, 8), np.nan)
    ),
    "must hold an array named images": lambda folder: np.savez(folder / "samples.npz", other=np.zeros(1)),
    "samples.npz must hold": lambda folder: (folder / "samples.npz").write_bytes(b"no zip"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refuses_a_model_that_is_not_the_one_described(reason: str, tmp_path: Path) -> None:
    folder = make_package(tmp_path / "package")
    REFUSED[reason](folder)
    describe(folder)

    with pytest.raises(ModelPackageError, match=reason):
        load_workload(folder, load)


def test_answers_for_a_sample_as_for_its_picture_and_refuses_others(tmp_path: Path) -> None:
    classifier = load_workload(make_package(tmp_path / "package"), load)
    with np.load(DIGITS / "samples.npz") as samples:
        count = len(samples["images"])

    assert classifier.predict(Request("a", index=count - 1), 3).scores[0].probability > 0
    for index in (-1, count, 10**400):
        with pytest.raises(RequestError, match=f"index must be from 0 to {count - 1}") as caught:
            classifier.predict(Request("a", index=index), 3)
        assert caught.value.code is ErrorCode.INDEX_OUT_OF_RANGE


def test_a_model_without_samples_says_so(tmp_path: Path) -> None:
    classifier = load_workload(make_package(tmp_path / "package", samples=None), load)

    with pytest.raises(RequestError, match="this model has no samples"):
        classifier.predict(Request(None, index=0), 3)


def test_takes_the_portable_model_of_a_package_compiled_for_another_runtime(tmp_path: Path) -> None:
    classifier = load_workload(make_package(tmp_path / "package", runtime="dlr"), load)

    assert classifier.predict(Request(None, index=0), 1).scores
