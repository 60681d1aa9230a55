"""A model's folder on this machine: packed and loaded as a device would; what its samples look like, for drift."""

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from config.model import Model, labels_in_an_answer
from edge_component.settings import ConfigurationError
from edge_constructs.model_source import DECLARATION, REFERENCE, ModelDeclarationError, ModelSource, reference_of
from edge_constructs.reproducible_zip import sha256_of
from edge_inference.files import read_file
from edge_inference.messages import ErrorCode, Prediction, Request, RequestError
from edge_inference.messages import parse as parse_request
from edge_inference.models import runtime
from edge_inference.models.drift import CONFIDENCE, LEAST_SAMPLES, MOST_BINS, Reference, Statistic, measure
from edge_inference.models.package import MODEL_FILE, OBJECTS, TENSORS, ModelPackage, ModelPackageError
from edge_inference.models.store import Workload, load_workload
from edge_inference.settings import KEYS, parse
from twin.files import write_whole

REQUEST_BYTES = 1 << 20


def whole_path(folder: Path) -> Path:
    """A folder's path with its own name: "." has none. Of links in a ring it is what it is: reading is the error."""
    try:
        return folder.resolve()
    except RuntimeError:  # before Python 3.13
        return folder.absolute()


def package(source: ModelSource, folder: Path) -> Path:
    """Unpack a model folder as a device would find it.

    Args:
        source: The folder, read.
        folder: Gets the files and a manifest with their digests.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, original in source.files.items():
        member = MODEL_FILE if name.endswith(".onnx") else name
        file = folder / member
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, file)
        files[member] = {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    manifest = {**source.declaration, "version": "0.0.0", "runtime": "onnxruntime", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def declaration_text(declared: Mapping[str, Any]) -> str:
    """A declaration as its file: a line a field, as a thousand labels a line each would bury the rest."""
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in declared.items())
    return f"{{\n{lines}\n}}\n"


def check_name(name: str) -> None:
    """Check that a stage can list the folder: its name becomes part of topics, jobs and stacks.

    Raises:
        ModelDeclarationError: It cannot.
    """
    try:
        Model(folder=name)
    except ValidationError as exc:
        rule = "lower-case letters, digits and single dashes, at most 30, a letter first"
        raise ModelDeclarationError(f"a model's folder must be named by {rule}, got {name!r}") from exc


def check_serving(source: ModelSource) -> dict[str, Any]:
    """Check what a folder says of its configuration with the device's own rules.

    Args:
        source: The folder, read.

    Returns:
        Top-k and threshold.

    Raises:
        ConfigurationError: A key is unknown or its value breaks a rule.
    """
    serving = {"topK": labels_in_an_answer(source.declaration), **source.declaration.get("serving", {})}
    if unknown := sorted(set(serving) - KEYS):
        raise ConfigurationError(f"serving must hold known keys, got {', '.join(unknown)}")
    topics = {"component": "local", "requestTopic": "local/request", "responseTopic": "local/response"}
    settings = parse({"models": {source.name: {**topics, **serving}}})[source.name]
    return {"count": settings.top_k, "threshold": settings.threshold}


def load(unpacked: Path) -> Workload:
    """Load a package as a device does.

    Args:
        unpacked: What `package` made.

    Returns:
        A model that has run once.

    Raises:
        ModelPackageError: Any part of it is not usable; the text has the folder's names, not the package's.
    """
    try:
        return load_workload(unpacked, runtime.load)
    except ModelPackageError as exc:
        # The package is gone when this is read: the names of the folder are what its owner knows.
        text = str(exc).replace(f"{unpacked}{os.path.sep}", "").replace("manifest.json", DECLARATION)
        raise ModelPackageError(text) from exc
    except MemoryError as exc:
        raise ModelPackageError(
            f"the model must run in this machine's memory: {exc}: export it for smaller inputs"
        ) from exc


def asked(text: str) -> Request:
    """Read what the command line gives as an input; the request's id is what it is called in an error.

    Args:
        text: A picture, a file with a request, or a request itself.

    Raises:
        RequestError: It is none.
    """
    is_request = text.lstrip().startswith("{")
    what = text if is_request else Path(text).name
    try:
        request = parse_request(text.encode(), "local") if is_request else read_file(Path(text), REQUEST_BYTES)
    except RequestError as exc:
        raise RequestError(exc.code, f"{what}: {exc}") from exc
    return replace(request or Request(None), request_id=what)


def own_samples(model: Any, most: int | None = None) -> list[Request]:
    """Requests for a model's own samples, with what each is where the folder says so.

    Args:
        model: Loaded; one of tensors has none.
        most: How many, at most.

    Raises:
        ModelPackageError: There are more or fewer labels than samples, or a number stands for none.
    """
    size = len(getattr(model, "samples", ()))
    labels = _sample_labels(model.package) if size else []
    return [
        Request(f"sample {index}", index=index, label=labels[index] if labels else None)
        for index in range(min(size, size if most is None else most))
    ]


def answer(model: Workload, request: Request, count: int) -> Prediction:
    """Predict as the device does: whatever a model does with an input, it is told.

    Args:
        model: Loaded.
        request: The input; its id is what it is called in an error.
        count: How many labels to name at most.

    Raises:
        RequestError: The model cannot answer it.
    """
    try:
        return model.predict(request, count)
    except RequestError as exc:
        raise RequestError(exc.code, f"{request.request_id}: {exc}") from exc
    except Exception as exc:
        text = f"{request.request_id}: inference failed: {type(exc).__name__}: {exc}"
        raise RequestError(ErrorCode.INTERNAL_ERROR, text) from exc


def as_png(pixels: NDArray[Any]) -> bytes:
    """Encode a sample's pixels as a PNG: whole numbers to 255, or others from 0 to 1."""
    scale = 1 if pixels.dtype == np.uint8 else 255
    visible = np.rint(np.clip(pixels * np.float32(scale), 0, 255)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(visible[..., 0] if visible.shape[-1] == 1 else visible).save(file, "PNG")
    return file.getvalue()


def _sample_labels(package: ModelPackage) -> list[str]:
    """Which label each of a package's samples has; none where the samples do not say."""
    if package.samples is None:
        return []
    file, last = package.samples[0], len(package.labels) - 1
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if "labels" not in arrays:
                return []
            numbers, size = arrays["labels"], len(arrays["images" if "images" in arrays else "rows"])
    except ValueError as exc:
        raise ModelPackageError(f"{file.name}: labels must be whole numbers, got {exc}") from exc
    if numbers.shape != (size,) or numbers.dtype.kind not in "ui" or ((numbers < 0) | (numbers > last)).any():
        values = ", ".join(map(str, numbers.reshape(-1)[:5]))
        raise ModelPackageError(
            f"{file.name}: labels must be {size} whole numbers from 0 to {last}, one a sample, got {numbers.dtype} of "
            f"shape {numbers.shape}: {values}"
        )
    return [package.labels[number] for number in numbers]


#: Samples of a bin, about, at least.
A_BIN = 10


def write_reference(folder: Path) -> Iterator[str]:
    """Run a model over its own samples with the device's code, and write what they look like into its folder.

    The same model and samples give the same file. `model.json` gets its name, where it does not have it.

    Args:
        folder: The model's.

    Yields:
        What was written.

    Raises:
        ModelDeclarationError: The folder cannot be used, or has too few samples.
        ModelPackageError, RequestError: The model does not load, or fails on a sample.
        OSError: The file cannot be written.
    """
    folder = whole_path(folder)
    # A reference that is out of date must not be in the way of a new one.
    source = ModelSource.read(folder, check_reference=False)
    source.files.pop(str(source.declaration.pop("reference", "")), None)
    task = source.declaration.get("task")
    if task == TENSORS or not source.declaration.get("samples"):
        fix = "the task tensors has no confidence" if task == TENSORS else "name held-out inputs under samples"
        raise ModelDeclarationError(f"{folder.name}/{DECLARATION}: a reference is made of samples: {fix}")
    settings = check_serving(source)
    with tempfile.TemporaryDirectory() as scratch:
        model: Any = load(package(source, Path(scratch) / "package"))
        if (count := len(model.samples)) < LEAST_SAMPLES:
            raise ModelDeclarationError(f"{folder.name}: samples must be at least {LEAST_SAMPLES}, got {count}")
        threshold = settings["threshold"] if model.package.task == OBJECTS else 0.0
        values: dict[str, list[float]] = {}
        for request, sample in zip(own_samples(model), model.samples, strict=True):
            said = answer(model, request, settings["count"])
            found = {CONFIDENCE: said.confidence(threshold) or 0.0}
            for name, value in {**found, **measure(sample, model.package.features)}.items():
                values.setdefault(name, []).append(value)
    reference = Reference(count, threshold, tuple(describe(name, each) for name, each in values.items()))
    file = folder / REFERENCE
    write_whole(file, _to_json(reference, reference_of(source)))
    _name_in(folder / DECLARATION)
    yield f"{file}: {len(values)} statistics of {count} samples, {file.stat().st_size} bytes"


def describe(name: str, values: Sequence[float]) -> Statistic:
    """Put samples into bins of about the same number, ten at most, of about ten samples at least.

    Args:
        name: Of the statistic.
        values: One a sample, finite.
    """
    bins = min(MOST_BINS, max(2, len(values) // A_BIN))
    known = np.unique(values)
    if len(known) > 1:
        # Between two values that there are: an input's 5.1 must not lie on the other side of an edge than a sample's.
        wanted = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
        above = np.clip(np.searchsorted(known, wanted, side="right"), 1, len(known) - 1)
        edges = sorted({_rounded(edge) for edge in ((known[above - 1] + known[above]) / 2).tolist()})
    else:
        # What is on either side of the only value is another bin.
        width = max(abs(float(known[0])), 1.0) * 1e-3
        edges = [_rounded(float(known[0]) - width), _rounded(float(known[0]) + width)]
    empty = Statistic(name, tuple(edges), ())
    counts = np.bincount([empty.place(value) for value in values], minlength=len(edges) + 1)
    return Statistic(name, empty.edges, tuple(counts.tolist()))


def _rounded(value: float) -> float:
    """Without the last digits, which differ from one processor to another."""
    return float(f"{value:.6g}")


def _to_json(reference: Reference, made_of: Mapping[str, str]) -> str:
    """A reference as its file, which `read_reference` reads, with the SHA-256 of each file that it follows from."""
    lines = [
        json.dumps({"name": each.name, "edges": each.edges, "counts": each.counts}) for each in reference.statistics
    ]
    head = json.dumps({"samples": reference.samples, "threshold": reference.threshold, "madeOf": dict(made_of)})
    return f'{head[:-1]}, "statistics": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n]}\n"


def write_trained(folder: Path, model: Any, samples: dict[str, Any], said: str) -> None:
    """Write a model that was trained anew, and its reference where its folder has one; raises as `write_reference`.

    Args:
        folder: The model's.
        model: As ONNX has it.
        samples: Held-out inputs, and what they are.
        said: Of the training, printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(folder / "samples.npz", **samples)
    print(f"{folder}: {said}")
    declaration = folder / DECLARATION
    if declaration.is_file() and json.loads(declaration.read_text(encoding="utf-8-sig")).get("reference"):
        for told in write_reference(folder):
            print(told)


def _name_in(declaration: Path) -> None:
    """Add the file's name to a declaration, and leave the rest as its author wrote it."""
    text = declaration.read_text(encoding="utf-8-sig")
    if json.loads(text).get("reference") != REFERENCE:
        head = text.rstrip().removesuffix("}").rstrip()
        # A link stays one.
        write_whole(declaration.resolve(), f'{head},\n  "reference": "{REFERENCE}"\n}}\n')
