"""The unpacked package of a model: what it must hold, and the proof that it is what was shipped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from edge_inference.declaration import MODEL_FILE, ModelPackage, ModelPackageError, Tensor
from edge_inference.declaration_reader import read_declaration
from edge_inference.manifest_fields import mapping
from edge_inference.signature import SIGNATURE, SIGNATURE_BYTES, SignatureError, SigningKey

__all__ = ["MODEL_FILE", "ModelPackage", "ModelPackageError", "Tensor", "open_package", "verified_manifest"]

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20


def open_package(folder: Path, key: SigningKey | None = None) -> ModelPackage:
    """Read a package's manifest and verify the size and the digest of every file before anything uses them.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The verified package.

    Raises:
        ModelPackageError: A file is missing, cut off or changed, the signature does not hold, or the manifest is not
            usable.
    """
    manifest = verified_manifest(folder, key)
    try:
        package = replace(read_declaration(folder, manifest), signed=key is not None)
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    return package


def verified_manifest(folder: Path, key: SigningKey | None = None) -> Mapping[str, object]:
    """Verify a package as shipped, whatever its model is for: first the manifest's signature, then every file.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The manifest.

    Raises:
        ModelPackageError: A file is missing, cut off or changed, or the signature does not hold.
    """
    manifest = _manifest(folder, key)
    try:
        _verify_files(folder, mapping(manifest, "files"))
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    return manifest


def _verify_signature(folder: Path, manifest: bytes, key: SigningKey) -> None:
    path = folder / SIGNATURE
    try:
        with path.open("rb") as stream:
            key.verify(manifest, stream.read(SIGNATURE_BYTES))
    except FileNotFoundError as exc:
        raise ModelPackageError(
            f"{path} is missing: this device takes signed packages only, package the model with the signing key"
        ) from exc
    except OSError as exc:
        raise ModelPackageError(f"{path} cannot be read: {exc.strerror}") from exc
    except SignatureError as exc:
        raise ModelPackageError(f"{path} {exc}") from exc


def _manifest(folder: Path, key: SigningKey | None) -> Mapping[str, object]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_BYTES:
            raise ModelPackageError(f"{path} must have at most {MANIFEST_BYTES} bytes, got {path.stat().st_size}")
        content = path.read_bytes()
    except OSError as exc:
        raise ModelPackageError(f"{path} cannot be read: {exc.strerror}") from exc
    if key is not None:
        _verify_signature(folder, content, key)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ModelPackageError(f"{path} must be JSON: {exc}") from exc
    if not isinstance(manifest, dict):
        raise ModelPackageError(f"{path} must be a JSON object, got {type(manifest).__name__}")
    return manifest


def _verify_files(folder: Path, files: Mapping[str, object]) -> None:
    if MODEL_FILE not in files:
        raise ValueError(f"files must hold {MODEL_FILE}, got {sorted(files)}")
    for name in files:
        expected = mapping(files, name)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"files must lie inside the package, got {name!r}")
        file = folder / path
        try:
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise ModelPackageError(f"{file} must have {expected['bytes']} bytes, got {size}")
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            raise ModelPackageError(f"{file} cannot be read: {exc.strerror}") from exc
        if digest != expected["sha256"]:
            raise ModelPackageError(f"{file} must have the SHA-256 {expected['sha256']}, got {digest}")
