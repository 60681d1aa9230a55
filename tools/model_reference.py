"""What a model's samples look like, for devices to compare their inputs with: `python -m tools.model reference`."""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config.model import labels_in_an_answer
from edge_constructs.model_source import DECLARATION, REFERENCE, ModelDeclarationError, ModelSource, reference_of
from edge_inference.messages import Request
from edge_inference.models.drift import CONFIDENCE, LEAST_SAMPLES, MOST_BINS, Reference, Statistic, measure
from edge_inference.models.package import OBJECTS, TENSORS
from tools.model_folder import answer, check_serving, load, package, whole_path
from twin.files import write_whole

#: Samples of a bin, about, at least.
A_BIN = 10


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    command.add_argument("folder", type=Path, help="the model's folder; its model.json must name samples")


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
    serving = {"topK": labels_in_an_answer(source.declaration), **source.declaration.get("serving", {})}
    settings = check_serving(source.name, serving)
    with tempfile.TemporaryDirectory() as scratch:
        model: Any = load(package(source, Path(scratch) / "package"))
        count = len(model.samples)
        if count < LEAST_SAMPLES:
            raise ModelDeclarationError(f"{folder.name}: samples must be at least {LEAST_SAMPLES}, got {count}")
        threshold = settings["threshold"] if model.package.task == OBJECTS else 0.0
        values: dict[str, list[float]] = {}
        for index in range(count):
            said = answer(model, f"sample {index}", Request(None, index=index), settings["count"])
            found = {CONFIDENCE: said.confidence(threshold) or 0.0}
            for name, value in {**found, **measure(model.samples[index], model.package.features)}.items():
                values.setdefault(name, []).append(value)
    reference = Reference(count, threshold, tuple(describe(name, each) for name, each in values.items()))
    file = folder / REFERENCE
    write_whole(file, to_json(reference, reference_of(source)))
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


def to_json(reference: Reference, made_of: Mapping[str, str]) -> str:
    """Write a reference as its file.

    Args:
        reference: What `read_reference` will return.
        made_of: Name of each file that it follows from to its SHA-256.
    """
    lines = [
        json.dumps({"name": each.name, "edges": each.edges, "counts": each.counts}) for each in reference.statistics
    ]
    head = json.dumps({"samples": reference.samples, "threshold": reference.threshold, "madeOf": dict(made_of)})
    return f'{head[:-1]}, "statistics": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n]}\n"


def write_again(folder: Path) -> Iterator[str]:
    """Write the reference of a model that was trained anew, where its folder has one; raises as `write_reference`."""
    declaration = folder / DECLARATION
    if declaration.is_file() and json.loads(declaration.read_text(encoding="utf-8-sig")).get("reference"):
        yield from write_reference(folder)


def _name_in(declaration: Path) -> None:
    """Add the file's name to a declaration, and leave the rest as its author wrote it."""
    text = declaration.read_text(encoding="utf-8-sig")
    if json.loads(text).get("reference") != REFERENCE:
        head = text.rstrip().removesuffix("}").rstrip()
        # A link stays one.
        write_whole(declaration.resolve(), f'{head},\n  "reference": "{REFERENCE}"\n}}\n')
