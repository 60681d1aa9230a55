"""One request to a served model, in a process of its own. Run: `python -m twin.cloud.sagemaker.model_server`."""

from __future__ import annotations

import json
import os
import runpy
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.cloud.aws.worker import OrderError, serve
from twin.files import unpack

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

_S3 = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
ENTRY_POINT = "code/inference.py"
"""Where Neo's images look for what reads requests."""
_TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "UINT8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}


def answer(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Load the model and run one request of the inference protocol (version 2, JSON) on it.

    Args:
        order: `client` (arguments of the S3 client), `model` (S3 URI of the archive) and `body`; None only loads.
        folder: For temporary files; empty.

    Returns:
        `outputs` with name, datatype, shape and data; empty without a body.

    Raises:
        OrderError: The archive cannot be read, holds no model of the server's form, or refuses the request.
    """
    place = urlsplit(order["model"])
    archive = folder / "model.tar.gz"
    try:
        s3 = boto3.client("s3", config=_S3, **order["client"])
        s3.download_file(place.netloc, place.path.lstrip("/"), str(archive))
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                unpack(tar, member, folder / "models")
    except (ClientError, BotoCoreError, tarfile.TarError, OSError) as exc:
        raise OrderError(f"{order['model']} must be a readable .tar.gz: {exc}") from exc
    if (folder / "models" / ENTRY_POINT).is_file():
        return by_entry_point(folder / "models", order["body"])
    models = sorted((folder / "models").glob("*/1/model.onnx"))
    if len(models) != 1:
        raise OrderError(f"{order['model']} must hold one model as <name>/1/model.onnx, got {len(models)}")
    try:
        session = onnxruntime.InferenceSession(str(models[0]), providers=["CPUExecutionProvider"])
        if order["body"] is None:
            return {"outputs": []}
        feeds = {
            tensor["name"]: np.array(tensor["data"], _TYPES[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in json.loads(order["body"])["inputs"]
        }
        values = session.run(None, feeds)
    except Exception as exc:
        raise OrderError(" ".join(str(exc).split())[:500]) from exc
    return {"outputs": [_tensor(node.name, value) for node, value in zip(session.get_outputs(), values, strict=True)]}


def by_entry_point(folder: Path, body: str | None) -> dict[str, Any]:
    """Serve as Neo's PyTorch image does: its `model_fn` loads the module, the archive's entry point does the rest.

    The twin compiles nothing: the module is the one that was given to Neo, run by torch, where there is one.

    Args:
        folder: The archive's files.
        body: The request; None only loads.

    Returns:
        `outputs` in the model's order, without names.

    Raises:
        OrderError: There is no torch, no module, or the request is refused.
    """
    try:
        import torch  # type: ignore[import-not-found,unused-ignore]
    except ImportError as exc:
        raise OrderError(
            "the twin serves PyTorch with torch alone, and this interpreter has none: run the twin by one that has "
            "(requirements-model.txt names the release), or leave verify out on the twin"
        ) from exc
    modules = sorted([*folder.glob("*.pt"), *folder.glob("*.pth")])
    if len(modules) != 1:
        raise OrderError(f"the archive must hold one compiled module, got {[each.name for each in modules] or 'none'}")
    try:
        model = torch.jit.load(str(modules[0]))
        entry = runpy.run_path(str(folder / ENTRY_POINT))
        if body is None:
            return {"outputs": []}
        answer, _kind = entry["transform_fn"](model, body, "application/json", "application/json")
        return dict(json.loads(answer))
    except Exception as exc:
        raise OrderError(" ".join(str(exc).split())[:500]) from exc


def _tensor(name: str, value: Any) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": _NAMES[value.dtype],
        "shape": list(value.shape),
        "data": value.ravel().tolist(),
    }


if __name__ == "__main__":
    serve(answer)
