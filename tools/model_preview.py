"""What a model gets to see and what it says of it, as a page: `python -m tools.model preview`."""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from config.model import labels_in_an_answer
from edge_constructs.model_source import ModelSource
from edge_inference.messages import Request, above
from edge_inference.models.pictures import Pixels
from edge_inference.models.workloads import ImageClassifier, ObjectDetector, TabularClassifier
from tools import detections
from tools.model_folder import answer, asked, check_serving, load, package, sample_labels, whole_path
from twin.page import html as page

SHOWN = 24
Asked = tuple[str, Request, str]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    command.add_argument("folder", type=Path, help="the model's folder")
    command.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures, JSON files, JSON requests; or samples")
    command.add_argument("--out", type=Path, default=Path("out/preview.html"), help="the page (default: %(default)s)")


def preview(folder: Path, inputs: Sequence[str], out: Path) -> Iterator[str]:
    """Run a model with the device's own code and write what it saw and said.

    Args:
        folder: The model's.
        inputs: As for `check`; by default its first 24 samples, or the picture that it looks at by itself.
        out: The page's file.

    Yields:
        Where the page is.

    Raises:
        ModelDeclarationError, ModelPackageError, RequestError: What is wrong with the folder or an input.
        OSError: The page cannot be written.
    """
    source = ModelSource.read(whole_path(folder))
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = package(source, Path(scratch) / "package")
        model: Any = load(unpacked)
        own = unpacked / str(source.declaration.get("serving", {}).get("ImageName", ""))
        subjects = list(
            ((*asked(text), "") for text in inputs or [str(own)]) if inputs or own.is_file() else _samples(model)
        )
        serving = {"topK": labels_in_an_answer(source.declaration), **source.declaration.get("serving", {})}
        settings = check_serving(source.name, serving)
        count = settings["count"] if isinstance(model, ObjectDetector) else 3
        answers = [(what, request, is_, answer(model, what, request, count)) for what, request, is_ in subjects]
        if isinstance(model, ObjectDetector):
            content = _objects(model, answers, settings["threshold"])
        else:
            content = _pictures(model, answers) if isinstance(model, ImageClassifier) else _table(model, answers)
        declared = {key: value for key, value in source.declaration.items() if key not in ("name", "labels", "samples")}
        rows = [(key, json.dumps(value)[:300]) for key, value in declared.items()]
        lead = f"{model.package.task}, run on this machine with the device's code. {model.package.notice}"
        sections = [
            ("What it sees, and says", content),
            ("Its declaration", page.table("model.json", ("key", "value"), rows)),
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        text = page.page(f"Preview of {source.name}", lead, sections)
        out.write_text(text, encoding="utf-8", errors="replace")  # JSON may hold half a character
    yield f"{len(answers)} inputs in {out}" + (
        "" if answers else ": the folder has no samples, give pictures or requests"
    )


def _samples(model: Any) -> Iterator[Asked]:
    labels = sample_labels(model.package)
    for index in range(min(len(getattr(model, "samples", ())), SHOWN)):
        yield f"sample {index}", Request(None, index=index), labels[index] if labels else ""


def _pictures(model: ImageClassifier, answers: Sequence[tuple[str, Request, str, Any]]) -> str:
    wanted, shown = model.preprocessing, []
    for what, request, expected, prediction in answers:
        given = request.image
        pixels = model.samples[request.index or 0] if given is None else wanted.decode(given).pixels
        tensor = wanted.apply(pixels)
        visible = _visible(pixels)
        file = io.BytesIO()
        Image.fromarray(visible.squeeze()).save(file, "PNG")
        best = prediction.scores[0].label
        others = ", ".join(f"{score.label} {score.probability:.3f}" for score in prediction.scores)
        values = f"{others}; {what}, {wanted.width} x {wanted.height}, values {tensor.min():.2f} to {tensor.max():.2f}"
        more = f"is {expected}; {values}" if expected else values
        shown.append((file.getvalue(), what, best, more, bool(expected) and expected != best))
    return page.pictures(shown, large=max(wanted.width, wanted.height) > 32)


def _visible(pixels: Pixels) -> NDArray[np.uint8]:
    scale = 1 if pixels.dtype == np.uint8 else 255
    visible: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 255 / scale) * scale).astype(np.uint8)
    return visible


def _objects(model: ObjectDetector, answers: Sequence[tuple[str, Request, str, Any]], threshold: float) -> str:
    """Pictures with what was found in them, and in green what is there, where the samples say so."""
    shown, there = [], detections.truths_of(model.package)
    for what, request, _, prediction in answers:
        found, truths = above(prediction, threshold), []
        if request.image is None:
            picture: bytes | NDArray[np.uint8] = _visible(model.samples[request.index or 0])
            truths = there[request.index or 0] if there else []
        else:
            picture = request.image
        said = f"{len(found)} object{'' if len(found) == 1 else 's'}"
        more = (
            f"{f'of {len(truths)} that are there, ' if truths else ''}{what}, {' x '.join(map(str, prediction.size))}"
        )
        named = ", ".join(f"{score.label} {score.probability:.2f}" for score in found)
        shown.append((detections.drawn(picture, found, truths), f"{what}: {named or 'nothing'}", said, more, False))
    return page.pictures(shown, large=True)


def _table(model: Any, answers: Sequence[tuple[str, Request, str, Any]]) -> str:
    rows = []
    for what, request, expected, prediction in answers:
        seen: Any = request.features if request.features is not None else request.inputs
        if request.index is not None and isinstance(model, TabularClassifier):
            seen = np.round(model.samples[request.index].astype(float), 4).tolist()
        said = ", ".join(f"{score.label} {score.probability:.3f}" for score in prediction.scores)
        rows.append((what, json.dumps(seen)[:300], said or json.dumps(prediction.outputs)[:300], expected))
    return page.table("Inputs and answers", ("input", "values", "said", "is"), rows)
