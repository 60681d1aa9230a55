"""What a model's folder must say for a stack to be made of it; the device checks the rest with the model itself."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

DECLARATION = "model.json"
#: Written into every package.
RESERVED = ("manifest.json", "manifest.sig")
ONNX = re.compile(r"[^/]+\.onnx")
_REQUIRED = ("name", "framework", "source", "inputs", "outputs")
_KINDS = {"preprocessing": dict, "samples": dict, "serving": dict, "extras": list, "features": list}


class ModelDeclarationError(ValueError):
    """A model's folder cannot be used; the text lists every mistake."""


def mistakes_of(declaration: dict[str, Any], folder: Path) -> Iterator[str]:
    """List what is wrong with a declaration.

    Args:
        declaration: The contents of `model.json`.
        folder: Where it and the files that it names lie.

    Yields:
        A line a mistake.
    """
    required = _REQUIRED if declaration.get("task") == "tensors" else (*_REQUIRED, "labels")
    yield from (f"{field}: is required, got nothing" for field in required if not declaration.get(field))
    if declaration.get("name") not in (None, folder.name):
        yield f"name: must be the folder's, {folder.name!r}, got {declaration['name']!r}"
    for field, kind in _KINDS.items():
        if not isinstance(declaration.get(field, kind()), kind):
            wanted = "an object" if kind is dict else "a list"
            yield f"{field}: must be {wanted}, got {declaration[field]!r:.60}"
            return  # the files that it would name are not known
    for field in ("inputs", "outputs"):
        yield from _tensor_mistakes(field, declaration.get(field) or [])
    labels = declaration.get("labels")
    if not isinstance(labels or [], (str, list)) or (isinstance(labels, str) and not _is_inside(labels)):
        yield f"labels: must be a list, or a file in the folder, got {labels!r:.60}"
    elif isinstance(labels, str) and not (folder / labels).is_file():
        yield f"labels: must be a list, or the name of a file with one a line, got {labels!r:.60}, which is missing"
    yield from _file_mistakes(declaration, folder)


def file_names(declaration: dict[str, Any]) -> list[str]:
    """The files that travel with a model, by their paths in its folder."""
    names = [declaration.get("source"), declaration.get("samples", {}).get("file"), *declaration.get("extras", ())]
    return [name for place, name in enumerate(names) if name and name not in names[:place]]


def _tensor_mistakes(field: str, tensors: Any) -> Iterator[str]:
    if not isinstance(tensors, list):
        yield f"{field}: must be a list of objects, got {tensors!r:.60}"
        return
    for place, tensor in enumerate(tensors):
        known = tensor if isinstance(tensor, dict) else {}
        sizes = known.get("shape")
        whole = isinstance(sizes, list) and all(type(size) is int for size in sizes)
        if not (isinstance(known.get("name"), str) and whole):
            yield f"{field}[{place}]: must have a name, and a shape of whole numbers, got {tensor!r:.60}"


def _file_mistakes(declaration: dict[str, Any], folder: Path) -> Iterator[str]:
    source = declaration.get("source")
    for name in file_names(declaration):
        if not isinstance(name, str) or not _is_inside(name):
            yield f"{name!r:.60}: must be a relative path inside the folder"
        elif not (folder / name).is_file():
            yield f"{name}: is named in the declaration, but missing"
        elif name == source and declaration.get("framework") == "ONNX" and not ONNX.fullmatch(name):
            yield f"source: must be an .onnx file in the folder itself, got {name!r}"
        elif name in RESERVED or (name != source and name.endswith(".onnx")):
            yield f"{name}: must have another name, a package holds one .onnx file and its own {RESERVED[0]}"


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
