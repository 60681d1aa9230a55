"""A model as its folder declares it, and the archive that SageMaker reads it from."""

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from config.places import SOURCES
from edge_constructs.reproducible_zip import StrangerError, check_member, sha256_of

DECLARATION = "model.json"
#: What the samples look like: `python -m tools.model reference` writes it.
REFERENCE = "reference.json"
#: Written into every package.
RESERVED = ("manifest.json", "manifest.sig")
ONNX = re.compile(r"[^/]+\.onnx")
_REQUIRED = ("name", "framework", "source", "inputs", "outputs")
_KINDS = {
    "compilation": dict,
    "preprocessing": dict,
    "detection": dict,
    "samples": dict,
    "serving": dict,
    "extras": list,
    "features": list,
    "notice": str,
    "probabilities": bool,
}
_KIND_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_KEYS = sorted({*_REQUIRED, *_KINDS, "description", "frameworkVersion", "labels", "reference", "task", "topK"})


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
    for key in sorted(set(declaration) - set(_KEYS)):
        close = get_close_matches(key, _KEYS, n=1)
        fix = f"did you mean {close[0]}?" if close else ", ".join(_KEYS)
        yield f"{key[:60]}: must be a key of a declaration: {fix}"
    if declaration.get("framework") not in (None, "", "ONNX"):
        yield f"framework: must be ONNX, which devices run, got {declaration['framework']!r:.60}"
    if declaration.get("name") not in (None, folder.name):
        yield f"name: must be the folder's, {folder.name!r}, got {declaration['name']!r}"
    for field, kind in _KINDS.items():
        if not isinstance(declaration.get(field, kind()), kind):
            yield f"{field}: must be {_KIND_NAMES[kind]}, got {declaration[field]!r:.60}"
            return  # the files that it would name are not known
    for field in ("inputs", "outputs"):
        yield from _tensor_mistakes(field, declaration.get(field) or [])
    features = declaration.get("features", [])
    for place, name in enumerate(features):
        if type(name) not in (str, int) or not str(name).strip() or name in features[:place]:
            yield f"features[{place}]: must be a name that no other one has, got {name!r:.60}"
    if not isinstance(declaration.get("reference", ""), str):
        yield f"reference: must be a file in the folder, got {declaration['reference']!r:.60}"
        return
    if "file" in (samples := declaration.get("samples", {})) and not _is_name(samples["file"]):
        yield f"samples.file: must be a file in the folder, got {samples['file']!r:.60}"
        return
    labels = declaration.get("labels")
    if not isinstance(labels or [], (str, list)) or (isinstance(labels, str) and not _is_inside(labels)):
        yield f"labels: must be a list, or a file in the folder, got {labels!r:.60}"
    elif isinstance(labels, str) and not (folder / labels).is_file():
        yield f"labels: must be a list, or the name of a file with one a line, got {labels!r:.60}, which is missing"
    yield from _file_mistakes(declaration, folder)
    if "compilation" in declaration:
        yield from _compilation_mistakes(declaration["compilation"], declaration, folder)


#: What Neo reads of a framework for which it has a serving image ("What input data shapes does SageMaker Neo expect?",
#: SageMaker Developer Guide).
COMPILED_FROM = {"PYTORCH": (".pt", ".pth")}


def _compilation_mistakes(told: dict[str, Any], declaration: dict[str, Any], folder: Path) -> Iterator[str]:
    framework, name = told.get("framework"), told.get("source")
    if unknown := sorted(set(told) - {"framework", "frameworkVersion", "source", "inputs"}):
        yield f"compilation.{unknown[0]}: must be framework, frameworkVersion, source or inputs"
    if not isinstance(framework, str) or framework not in COMPILED_FROM:
        yield f"compilation.framework: must be one of {', '.join(COMPILED_FROM)}, got {framework!r:.60}"
        return
    if not isinstance(name, str) or not _is_inside(name) or not name.endswith(COMPILED_FROM[framework]):
        endings = " or ".join(COMPILED_FROM[framework])
        yield f"compilation.source: must be a {endings} file in the folder, got {name!r:.60}"
    elif name in file_names(declaration):
        yield f"compilation.source: must be a file that devices do not get, got {name!r}"
    elif not (folder / name).is_file():
        yield f"compilation.source: {name} is missing"
    else:
        yield from _link_mistakes(folder, name)
    if not told.get("inputs"):
        yield "compilation.inputs: is required, got nothing"
    yield from _tensor_mistakes("compilation.inputs", told.get("inputs") or [])


def file_names(declaration: dict[str, Any]) -> list[str]:
    """The files that travel with a model, by their paths in its folder."""
    samples, reference = declaration.get("samples", {}).get("file"), declaration.get("reference")
    names = [declaration.get("source"), samples, reference, *declaration.get("extras", ())]
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
    labels = declaration.get("labels")
    for name in (DECLARATION, labels) if isinstance(labels, str) else (DECLARATION,):
        yield from _link_mistakes(folder, name)
    for name in file_names(declaration):
        if not isinstance(name, str) or not _is_inside(name):
            yield f"{name!r:.60}: must be a relative path inside the folder"
        elif not (folder / name).is_file():
            yield f"{name}: is named in the declaration, but missing"
        elif name == source and declaration.get("framework") == "ONNX" and not ONNX.fullmatch(name):
            yield f"source: must be an .onnx file in the folder itself, got {name!r}"
        elif name in RESERVED or (name != source and name.endswith(".onnx")):
            yield f"{name}: must have another name, a package holds one .onnx file and its own {RESERVED[0]}"
        else:
            yield from _link_mistakes(folder, name)


def _link_mistakes(folder: Path, name: str) -> Iterator[str]:
    try:
        if _is_inside(name) and (folder / name).is_file():
            check_member(folder / name, folder, SOURCES)
    except StrangerError as exc:
        yield str(exc).removeprefix(f"{folder}: ")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name


ARCHIVE = "model.tar.gz"


@dataclass(frozen=True)
class ModelSource:
    """A model's folder, read once.

    Attributes:
        name: The model's name, as its folder is called.
        declaration: What `model.json` says: inputs, outputs, labels, pre-processing; labels in a file are read.
        files: Path in the archive, as the declaration names it, to the file.
    """

    name: str
    declaration: dict[str, Any]
    files: dict[str, Path]

    @classmethod
    def read(cls, folder: Path, *, check_reference: bool = True) -> "ModelSource":
        """Read a model's folder.

        Args:
            folder: Holds `model.json` and the files that it names.
            check_reference: Whether the reference must have been made of this very model and these samples.

        Returns:
            The model.

        Raises:
            ModelDeclarationError: The declaration is missing, no JSON, incomplete or misshapen, or a file it names is
                missing, a link that leads out of the assets, or has no place in a package.
        """
        declaration = _declaration(folder)
        mistakes = list(mistakes_of(declaration, folder))
        if not check_reference:
            mistakes = [line for line in mistakes if not line.startswith(f"{REFERENCE}: ")]
        if mistakes:
            raise ModelDeclarationError("\n".join(f"{folder.name}/{DECLARATION}: {line}" for line in mistakes))
        if isinstance(declaration.get("labels"), str):
            declaration["labels"] = _labels(folder, declaration["labels"])
        names = file_names(declaration)
        if not check_reference:
            names = [name for name in names if (folder / name).is_file()]
        source = cls(folder.name, declaration, {name: folder / name for name in names})
        if check_reference and declaration.get("reference"):
            _check_reference(source, folder)
        return source

    def compiled_from(self) -> "ModelSource | None":
        """What a compilation job reads in place of what devices run: the declaration's `compilation`; None without."""
        told = self.declaration.get("compilation")
        if told is None:
            return None
        file = self.files[self.declaration["source"]].parent / told["source"]
        return ModelSource(self.name, told, {PurePosixPath(told["source"]).name: file})

    @property
    def input_shapes(self) -> dict[str, list[int]]:
        """Name of each input to its shape, as compilers want it."""
        return {entry["name"]: entry["shape"] for entry in self.declaration["inputs"]}

    def write_archive(self, folder: Path) -> tuple[Path, str]:
        """Write the source archive; equal files give equal bytes.

        Args:
            folder: Gets `<sha256>/model.tar.gz`.

        Returns:
            The archive and its SHA-256.
        """
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, file in sorted(self.files.items()):
                member = tarfile.TarInfo(name)  # its time, owner and mode are constants unless told otherwise
                member.size = file.stat().st_size
                with file.open("rb") as content:
                    archive.addfile(member, content)
        # Level 0: the output of a deflate library changes with its version, and with it the model's would.
        data = gzip.compress(plain.getbuffer(), compresslevel=0, mtime=0)
        sha256 = hashlib.sha256(data).hexdigest()
        path = folder / sha256 / ARCHIVE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path, sha256


def reference_of(source: ModelSource) -> dict[str, str]:
    """What a model's reference follows from: the model and its samples, by their SHA-256."""
    names = (source.declaration["source"], source.declaration.get("samples", {}).get("file"))
    return {name: sha256_of(source.files[name]) for name in names if name in source.files}


def _check_reference(source: ModelSource, folder: Path) -> None:
    """A reference of another model would raise alarms, or none, for no reason."""
    name = source.declaration["reference"]
    fix = f"run python -m tools.model reference {folder.name}"
    try:
        made_of = json.loads(source.files[name].read_text(encoding="utf-8"))["madeOf"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise ModelDeclarationError(f"{folder.name}/{name}: is no reference of samples: {fix}") from exc
    if made_of != (wanted := reference_of(source)):
        raise ModelDeclarationError(
            f"{folder.name}/{name}: must have been made of {', '.join(wanted)} as they are now, got others: {fix}"
        )


def _declaration(folder: Path) -> dict[str, Any]:
    path, name = folder / DECLARATION, f"{folder.name}/{DECLARATION}"
    try:
        # Some editors put a byte order mark in front.
        declaration = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=each_key_once)
    except FileNotFoundError as exc:
        found = "got none" if folder.is_dir() else "and there is no such folder"
        raise ModelDeclarationError(f"{folder.name}: a model's folder must hold {DECLARATION}, {found}") from exc
    except OSError as exc:
        raise ModelDeclarationError(f"{name}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ModelDeclarationError(f"{name}: must be JSON: {exc}") from exc
    if not isinstance(declaration, dict):
        raise ModelDeclarationError(f"{name}: must be a JSON object, got {type(declaration).__name__}")
    return declaration


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON (`object_pairs_hook`); of a key that is there twice, one would be lost: ValueError."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"each key may be there once, {', '.join(map(repr, twice))} is there twice")
    return dict(pairs)


def _labels(folder: Path, name: str) -> list[str]:
    """Read one label a line, whoever's editor wrote them."""
    try:
        return (folder / name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as exc:
        raise ModelDeclarationError(
            f"{folder.name}/{DECLARATION}: labels: {name} must be text in UTF-8: {exc}"
        ) from exc
