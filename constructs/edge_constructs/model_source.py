"""A model as its folder declares it, and the archive that SageMaker reads it from."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DECLARATION = "model.json"
ARCHIVE = "model.tar.gz"
_REQUIRED = ("name", "framework", "source", "inputs", "outputs")


class ModelDeclarationError(ValueError):
    """A model's folder cannot be used; the text lists every mistake."""


@dataclass(frozen=True)
class ModelSource:
    """A model's folder, read once.

    Attributes:
        name: The model's name, as its folder is called.
        declaration: What `model.json` says: inputs, outputs, labels, pre-processing.
        files: Name in the archive to contents.
    """

    name: str
    declaration: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> "ModelSource":
        """Read a model's folder.

        Args:
            folder: Holds `model.json` and the files that it names.

        Returns:
            The model.

        Raises:
            ModelDeclarationError: The declaration is missing, no JSON or incomplete, or a file it names is missing.
        """
        path = folder / DECLARATION
        try:
            declaration = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise ModelDeclarationError(f"{folder.name}: a model's folder must hold {DECLARATION}, got none") from exc
        except json.JSONDecodeError as exc:
            raise ModelDeclarationError(f"{folder.name}/{DECLARATION}: must be JSON: {exc}") from exc
        required = _REQUIRED if declaration.get("task") == "tensors" else (*_REQUIRED, "labels")
        mistakes = [f"{field}: is required, got nothing" for field in required if not declaration.get(field)]
        if declaration.get("name") not in (None, folder.name):
            mistakes.append(f"name: must be the folder's, {folder.name!r}, got {declaration['name']!r}")
        names = [declaration.get("source"), declaration.get("samples", {}).get("file"), *declaration.get("extras", ())]
        files = [folder / name for name in names if name]
        mistakes += [f"{file.name}: is named in the declaration, but missing" for file in files if not file.is_file()]
        if mistakes:
            raise ModelDeclarationError("\n".join(f"{folder.name}/{DECLARATION}: {line}" for line in mistakes))
        return cls(folder.name, declaration, {file.name: file.read_bytes() for file in files})

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
            for name, content in sorted(self.files.items()):
                member = tarfile.TarInfo(name)  # its time, owner and mode are constants unless told otherwise
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        # Level 0: the output of a deflate library changes with its version, and with it the model's would.
        data = gzip.compress(plain.getvalue(), compresslevel=0, mtime=0)
        sha256 = hashlib.sha256(data).hexdigest()
        path = folder / sha256 / ARCHIVE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path, sha256
