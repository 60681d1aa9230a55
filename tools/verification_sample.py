"""Writes the sample that `verify: endpoint` asks a model: one held-out input, and what the source model answers.

python -m tools.verification_sample digits        writes edge_assets/models/digits/verification.json
"""

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer

from config.places import MODELS

FILE = "verification.json"


def make_sample(folder: Path, index: int = 0) -> dict[str, Any]:
    """Ask a model one of its samples.

    Args:
        folder: The model's, with its declaration, its model and its samples.
        index: Which sample.

    Returns:
        Inputs and outputs in the form of the inference protocol.

    Raises:
        ValueError: The model has no samples, or more than one input of float32.
    """
    declaration = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    told, *others = declaration["inputs"]
    if others or told["dtype"] != "float32" or "samples" not in declaration:
        raise ValueError(f"{folder.name} must have samples, and one input of float32: write {FILE} by hand")
    with np.load(folder / declaration["samples"]["file"]) as samples:
        found = samples["images" if "images" in samples else "rows"][index].astype(np.float32)
    value = (found / declaration["samples"].get("maximum", 1)).reshape(told["shape"])
    session = onnxruntime.InferenceSession(str(folder / declaration["source"]), providers=["CPUExecutionProvider"])
    answers = session.run(None, {told["name"]: value})
    names = [node.name for node in session.get_outputs()]
    return {
        "inputs": [_tensor(told["name"], value)],
        "outputs": [_tensor(name, answer) for name, answer in zip(names, answers, strict=True)],
    }


def _tensor(name: str, value: Any) -> dict[str, Any]:
    data = [round(float(number), 6) for number in value.ravel()]
    return {"name": name, "shape": list(value.shape), "datatype": "FP32", "data": data}


def main(model: Annotated[str, typer.Argument(help="Folder below edge_assets/models.")]) -> None:
    """Write the sample of a model."""
    path = MODELS / model / FILE
    path.write_text(json.dumps(make_sample(path.parent)) + "\n", encoding="utf-8")
    print(f"{path}: written")


if __name__ == "__main__":
    typer.run(main)
