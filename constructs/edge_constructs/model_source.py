"""A model as its folder declares it, and the archive that SageMaker reads it from."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_constructs.model_declaration import DECLARATION, ModelDeclarationError, file_names, mistakes_of

__all__ = ["DECLARATION", "ModelDeclarationError", "ModelSource"]

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
    def read(cls, folder: Path) -> "ModelSource":
        """Read a model's folder.

        Args:
            folder: Holds `model.json` and the files that it names.

        Returns:
            The model.

        Raises:
            ModelDeclarationError: The declaration is missing, no JSON, incomplete or misshapen, or a file it names is
                missing or has no place in a package.
        """
        declaration = _declaration(folder)
        mistakes = list(mistakes_of(declaration, folder))
        if mistakes:
            raise ModelDeclarationError("\n".join(f"{folder.name}/{DECLARATION}: {line}" for line in mistakes))
        if isinstance(declaration.get("labels"), str):
            declaration["labels"] = _labels(folder, declaration["labels"])
        names = file_names(declaration)
        return cls(folder.name, declaration, {name: folder / name for name in names})

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


def _declaration(folder: Path) -> dict[str, Any]:
    path, name = folder / DECLARATION, f"{folder.name}/{DECLARATION}"
    try:
        # Some editors put a byte order mark in front.
        declaration = json.loads(path.read_text(encoding="utf-8-sig"))
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


def _labels(folder: Path, name: str) -> list[str]:
    """Read one label a line, whoever's editor wrote them."""
    try:
        return (folder / name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as exc:
        raise ModelDeclarationError(
            f"{folder.name}/{DECLARATION}: labels: {name} must be text in UTF-8: {exc}"
        ) from exc
