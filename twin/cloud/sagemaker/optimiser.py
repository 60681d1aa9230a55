"""ONNX Runtime's graph optimiser, run ahead of time, with the checks that Neo makes of a model's inputs."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

# Read by the library when it is loaded: from 1.29 on it reports usage to its vendor unless it is told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

from twin.cloud.sagemaker.source_archive import InputError

_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_ARCHITECTURES = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}


def optimise(source: Path, target: Path, data_input_config: str, target_arch: str | None) -> None:
    """Write the optimised model for a target, and prove that it runs with the shapes that were declared.

    Args:
        source: The model.
        target: Where to write.
        data_input_config: JSON object: shape (list of whole numbers, -1 for any) by input name.
        target_arch: SageMaker's name, for instance `X86_64`. For this machine's own architecture every optimisation is
            applied, layouts for its vector units too; for another, or none, those that hold everywhere.

    Raises:
        InputError: If the model cannot be loaded or run, or its inputs are not the declared ones.
    """
    shapes = _declared_shapes(data_input_config)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(target)
    own = _ARCHITECTURES.get(platform.machine().lower()) == target_arch
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if own else levels.ORT_ENABLE_EXTENDED
    try:
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions have no common class.
        raise InputError(
            f"ONNX Runtime cannot load the model: {_one_line(exc).replace(str(source), source.name)}"
        ) from exc
    _check_inputs(session.get_inputs(), shapes)
    try:
        session.run(None, {node.name: _zeros(node, shapes[node.name]) for node in session.get_inputs()})
    except Exception as exc:
        raise InputError(f"the model does not run with the shapes of DataInputConfig: {_one_line(exc)}") from exc


def _declared_shapes(data_input_config: str) -> dict[str, list[int]]:
    example = '{"input": [1, 3, 224, 224]}'
    try:
        declared = json.loads(data_input_config)
    except ValueError as exc:
        raise InputError(f"DataInputConfig must be JSON such as {example}, got {data_input_config!r}: {exc}") from exc
    if not isinstance(declared, dict) or not declared:
        raise InputError(f"DataInputConfig must be a JSON object such as {example}, got {data_input_config!r}")
    shapes = {}
    for name, value in declared.items():
        shape = value.get("shape") if isinstance(value, dict) else value
        if not isinstance(shape, list) or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
            raise InputError(
                f"DataInputConfig of input {name} must be a list of sizes such as {example}, got {shape!r}"
            )
        shapes[name] = shape
    return shapes


def _check_inputs(nodes: list[Any], shapes: dict[str, list[int]]) -> None:
    names = {node.name for node in nodes}
    if names != set(shapes):
        raise InputError(
            f"DataInputConfig must name the model's inputs {', '.join(sorted(names))}, got {', '.join(sorted(shapes))}"
        )
    for node in nodes:
        declared, actual = shapes[node.name], node.shape
        fits = len(declared) == len(actual) and all(
            not isinstance(size, int) or wanted in (size, -1) for wanted, size in zip(declared, actual, strict=True)
        )
        if not fits:
            raise InputError(
                f"DataInputConfig of input {node.name} must fit the model's shape {actual}, got {declared}"
            )
        if node.type not in _NUMPY_TYPES:
            raise InputError(f"input {node.name} must be a tensor of numbers, got {node.type}")


def _zeros(node: Any, declared: list[int]) -> Any:
    sizes = [
        actual if isinstance(actual, int) else max(wanted, 1)
        for wanted, actual in zip(declared, node.shape, strict=True)
    ]
    return np.zeros(sizes, _NUMPY_TYPES[node.type])


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:500]
