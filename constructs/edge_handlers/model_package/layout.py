"""Which file of which archive goes where in the package."""

from dataclasses import dataclass
from pathlib import Path

from edge_handlers.s3_location import S3Location

MODEL = "model.onnx"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
COMPILED = "compiled"


class LayoutError(ValueError):
    """The two archives do not make a package."""


@dataclass(frozen=True)
class Unpacked:
    """An archive on disk.

    Args:
        place: Where it came from.
        folder: Where its members are.
        names: Their names.
    """

    place: S3Location
    folder: Path
    names: tuple[str, ...]


def arrange(source: Unpacked, compiled: Unpacked | None) -> tuple[dict[str, Path], str]:
    """Choose the package's files and its runtime.

    The compiler's ONNX model, if it made one, takes the place of the source's; whatever else it made goes under
    `compiled/`. The source's other files (labels, samples) are carried along.

    Args:
        source: The portable model, one .onnx file among its files.
        compiled: The compiler's output; None where the model is not compiled.

    Returns:
        Name in the package → file, and the runtime: "onnxruntime", or "dlr" for Neo's own format.

    Raises:
        LayoutError: There is not exactly one ONNX model to take, or a file would hide another.
    """
    portable = _onnx(source)
    files = {name: source.folder / name for name in source.names if name not in portable}
    optimised: list[str] = []
    if compiled is not None:
        optimised = _onnx(compiled)
        for name in compiled.names:
            if name not in optimised:
                _add(files, f"{COMPILED}/{name}", compiled.folder / name, compiled)
    chosen, archive = (optimised, compiled) if compiled is not None and optimised else (portable, source)
    if len(chosen) != 1:
        raise LayoutError(
            f"model archive {archive.place} must hold exactly one .onnx file, got {chosen or 'none'}; pack it again"
        )
    _add(files, MODEL, archive.folder / chosen[0], archive)
    for name in (MANIFEST, SIGNATURE):
        if name in files:
            raise LayoutError(f"model archive {source.place} must not hold {name}, which is written here; leave it out")
    return files, "dlr" if compiled is not None and not optimised else "onnxruntime"


def _onnx(archive: Unpacked) -> list[str]:
    return [name for name in archive.names if name.endswith(".onnx")]


def _add(files: dict[str, Path], name: str, path: Path, archive: Unpacked) -> None:
    if name in files:
        raise LayoutError(
            f"model archive {archive.place} must not hold {name}, which the package has already; rename it"
        )
    files[name] = path
