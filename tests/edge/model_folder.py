"""Unpacked model packages, made of the committed digit model as the packaging step makes them."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "edge_assets" / "models" / "digits"


def make_package(folder: Path, version: str = "1.0.0", *, drift: bytes = b"", **changes: Any) -> Path:
    """Write a package; `changes` replace entries of the manifest, None removes one; `drift` is its reference."""
    folder.mkdir(parents=True)
    if drift:
        (folder / "reference.json").write_bytes(drift)
    for name in ("model.onnx", "samples.npz"):
        shutil.copy(DIGITS / name, folder / name)
    return describe(folder, version, **changes)


def describe(folder: Path, version: str = "1.0.0", **changes: Any) -> Path:
    """Write the manifest of the files that lie in a folder."""
    manifest = json.loads((DIGITS / "model.json").read_text())
    manifest |= {"version": version, "runtime": "onnxruntime", "files": {}}
    for file in sorted(folder.iterdir()):
        if file.name != "manifest.json":
            content = file.read_bytes()
            manifest["files"][file.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    if manifest.get("reference") not in manifest["files"]:
        manifest["reference"] = None
    manifest |= changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def point(pointer: Path, target: Path) -> None:
    """Write a pointer file as a component's run step does: complete or not at all."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    new = pointer.with_suffix(".new")
    new.write_text(f"{target}/\n")
    new.replace(pointer)
