"""A program: optimise.py SOURCE TARGET, the inputs' shapes as JSON on stdin. Needs ONNX Runtime on its path.

The optimisations are those that hold on every processor of the architecture: layouts for this machine's own vector
units could be wrong for a device's.
"""

import json
import sys

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def optimise(source: str, target: str, shapes: dict[str, list[int]]) -> None:
    """Write the optimised model, and prove that it runs with the declared shapes.

    Args:
        source: Path of the ONNX model.
        target: Path of the result.
        shapes: Name of each input to its shape, -1 for any size.

    Raises:
        ValueError: The model's inputs are not the declared ones.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = target
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    found = {node.name: node for node in session.get_inputs()}
    if set(found) != set(shapes):
        raise ValueError(f"inputs must be the model's {sorted(found)}, declared are {sorted(shapes)}")
    feeds: dict[str, np.ndarray] = {}
    for name, node in found.items():
        fits = len(node.shape) == len(shapes[name]) and all(
            not isinstance(size, int) or wanted in (size, -1)
            for wanted, size in zip(shapes[name], node.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"shape of input {name} must fit the model's {node.shape}, declared is {shapes[name]}")
        sizes = [
            size if isinstance(size, int) else max(wanted, 1)
            for wanted, size in zip(shapes[name], node.shape, strict=True)
        ]
        if node.type not in TYPES:
            raise ValueError(f"input {name} must be a tensor of numbers, truths or texts, got {node.type}")
        feeds[name] = np.full(sizes, "" if TYPES[node.type] is np.object_ else 0, TYPES[node.type])
    session.run(None, feeds)


if __name__ == "__main__":
    try:
        optimise(sys.argv[1], sys.argv[2], json.load(sys.stdin))
    except Exception as exc:  # noqa: BLE001 (ONNX Runtime's errors have no common class)
        sys.exit(" ".join(str(exc).split())[:1000])
