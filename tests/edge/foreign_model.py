"""Small ONNX models as strangers export them, in packages as a device finds them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from edge_inference.models.runtime import load
from edge_inference.models.store import Workload, load_workload

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def value(name: str, dtype: str, shape: Sequence[int], unsaid: Sequence[str] = ()) -> Any:
    """An input or output; a size of -1 gets a name, and of some the graph says no shape."""
    if name in unsaid:
        return helper.make_tensor_value_info(name, ELEMENTS[dtype], None)
    sizes = [f"{name}{place}" if size < 0 else size for place, size in enumerate(shape)]
    return helper.make_tensor_value_info(name, ELEMENTS[dtype], sizes)


def tensor(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """The same in a declaration."""
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def foreign_model(
    folder: Path,
    nodes: Sequence[tuple[str, list[str], list[str], dict[str, Any]]],
    inputs: Sequence[dict[str, Any]],
    outputs: Sequence[dict[str, Any]],
    constants: Sequence[Any] = (),
    unsaid: Sequence[str] = (),
    said: Mapping[str, Sequence[int]] | None = None,
    **declaration: Any,
) -> Workload:
    """Write a package and load it as the device does.

    Args:
        folder: Made here.
        nodes: Operator, inputs, outputs and attributes of each.
        inputs: As a declaration has them; the graph gets the same.
        outputs: Likewise.
        constants: Tensors of the graph.
        unsaid: Inputs and outputs whose shape the graph does not say.
        said: Shapes that the graph says where the declaration has others.
        declaration: The rest of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        [helper.make_node(kind, takes, gives, **attributes) for kind, takes, gives, attributes in nodes],
        "",  # some exporters give no name
        [value(**_said(each, said or {}), unsaid=unsaid) for each in inputs],
        [value(**_said(each, said or {}), unsaid=unsaid) for each in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "manifest.json").unlink(missing_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    files = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in folder.iterdir()
    }
    content = {"name": "foreign", "version": "1.0.0", "files": files, "inputs": inputs, "outputs": outputs}
    (folder / "manifest.json").write_text(json.dumps(content | declaration))
    return load_workload(folder, load)


def _said(tensor: Mapping[str, Any], said: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {**tensor, "shape": said.get(tensor["name"], tensor["shape"])}
