"""Makes a model's folder, and runs it on this machine with the device's own code, before anything is deployed.

python -m tools.model init model.onnx --labels a,b      makes the folder, and the entry in the stage's file
python -m tools.model init --from estimator.skops       the same of a scikit-learn estimator
python -m tools.model check FOLDER [INPUT …]
python -m tools.model preview FOLDER [INPUT …]          the same as a page, with what the model gets to see
python -m tools.model reference FOLDER                  what its samples look like, for devices to tell drift by

INPUT is a picture, a file with a request as JSON, or a request itself such as '{"features": [5.1, 3.5, 1.4, 0.2]}';
without one the folder's own samples are predicted, and compared with their labels where they have some.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config.loader import ConfigurationError as StageError
from edge_component.settings import ConfigurationError
from edge_constructs.model_runtime import check_model, device_runtime, installed_runtime, unlike_on_openvino
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_inference.messages import Prediction, Request, RequestError, Score, above
from edge_inference.models.detection import MOST
from edge_inference.models.package import OBJECTS, ModelPackageError
from edge_inference.models.store import Workload
from edge_inference.models.workloads import ImageClassifier, ObjectDetector, TabularClassifier
from tools import detections, model_init
from tools.estimators import EstimatorError
from tools.model_folder import (
    answer,
    as_png,
    asked,
    check_name,
    check_serving,
    load,
    own_samples,
    package,
    whole_path,
    write_reference,
)
from twin.page import html as page

SHOWN = 5
_WRONG = (
    *(ModelDeclarationError, ModelPackageError, ConfigurationError, RequestError),
    *(model_init.ModelInitError, EstimatorError, StageError),
)


def check(folder: Path, inputs: Sequence[str]) -> Iterator[str]:
    """Load a folder's model and predict.

    Args:
        folder: The model's folder.
        inputs: Pictures, files with requests, or requests.

    Yields:
        Lines for people.

    Raises:
        ModelDeclarationError, ModelPackageError, ConfigurationError, RequestError: What is wrong with the folder.
    """
    folder = whole_path(folder)
    source = ModelSource.read(folder, check_reference=False)
    check_name(source.name)
    _check_runtime()
    check_model(source)
    source = ModelSource.read(folder)
    settings = check_serving(source)
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        model = load(package(source, Path(scratch) / "package"))
        loaded_ms = (time.perf_counter() - started) * 1000
        size = sum(file.stat().st_size for file in source.files.values())
        yield f"{source.name}: {model.package.task}, {size / 1e6:.2f} MB, loaded and warm in {loaded_ms:.0f} ms"
        if model.package.notice:
            yield f"notice: {model.package.notice}"
        for otherwise in unlike_on_openvino(source.files[source.declaration["source"]]):
            yield f"notice: not for OpenVINO: {otherwise}"
        for request in _subjects(source, model, inputs, SHOWN):
            yield _line(model, request, **settings)
        if not inputs and _own_picture(source) is None:
            yield from _judged(model)


def _own_picture(source: ModelSource) -> Path | None:
    """The picture that a model looks at by itself."""
    return source.files.get(str(source.declaration.get("serving", {}).get("ImageName", "")))


def _subjects(source: ModelSource, model: Workload, inputs: Sequence[str], most: int) -> Iterator[Request]:
    """What a model is asked: as given, or the picture that it looks at by itself, or so many of its samples."""
    own = _own_picture(source)
    if inputs or own is not None:
        yield from map(asked, inputs or [str(own)])
    else:
        yield from own_samples(model, most)


def _check_runtime() -> None:
    """This environment must have the devices' ONNX Runtime: another one may load what they do not."""
    engine, wanted = installed_runtime(), device_runtime()
    found = "none" if engine is None else str(engine.__version__)
    if found != wanted:
        raise ModelPackageError(f"onnxruntime must be {wanted}, as on the devices, got {found}: run make setup")


def _line(model: Workload, request: Request, count: int, threshold: float) -> str:
    started = time.perf_counter()
    prediction = answer(model, request, count)
    latency_ms = (time.perf_counter() - started) * 1000
    found = ", ".join(map(_said, above(prediction, threshold)))
    if not prediction.scores and prediction.size is None:
        found = json.dumps(prediction.outputs)[:200]
    name = f"{request.request_id}{f' (is {request.label})' if request.label else ''}"
    return f"{name}: {found or f'nothing with a score of {threshold:g} or above'} ({latency_ms:.2f} ms)"


def _said(score: Score) -> str:
    at = "" if score.box is None else f" at {', '.join(f'{place:.0f}' for place in score.box)}"
    return f"{score.label} {score.probability:.3f}{at}"


def _judged(model: Workload) -> Iterator[str]:
    """How right a model is on all of its samples, where they say what they are."""
    samples = own_samples(model)
    if samples and model.package.task == OBJECTS:
        if there := detections.truths_of(model.package):
            found = [answer(model, each, MOST).scores for each in samples]
            precision, overlap = detections.mean_average_precision(found, there), detections.OVERLAP
            yield f"mean average precision {precision:.4f} on {len(found)} samples, at an overlap of {overlap}"
    elif samples and samples[0].label:
        right = sum(answer(model, each, 1).scores[0].label == each.label for each in samples)
        yield f"{right} of {len(samples)} samples right ({right / len(samples):.4f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, that of the process by default; returns 0, or 1 with the reason on standard error."""
    about, examples = (__doc__ or "").split("\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m tools.model",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="load a model folder and print what it predicts")
    command.add_argument("folder", type=Path, help="with model.json in it")
    command.add_argument("inputs", nargs="*", metavar="INPUT", help="a picture, a JSON file or a JSON request")
    model_init.add_arguments(commands.add_parser("init", help="make a folder and a stage's entry of an ONNX file"))
    command = commands.add_parser("preview", help="show what the model sees and says, as a page")
    command.add_argument("folder", type=Path, help="the model's folder")
    command.add_argument("inputs", nargs="*", metavar="INPUT", help="pictures, JSON files, JSON requests; or samples")
    command.add_argument("--out", type=Path, default=Path("out/preview.html"), help="the page (default: %(default)s)")
    command = commands.add_parser("reference", help="write what its samples look like")
    command.add_argument("folder", type=Path, help="the model's folder; its model.json must name samples")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # that no signature is checked is no news here
    run: dict[str, Callable[[], Iterator[str]]] = {
        "init": lambda: model_init.init(options, check),
        "check": lambda: check(options.folder, options.inputs),
        "preview": lambda: preview(options.folder, options.inputs, options.out),
        "reference": lambda: write_reference(options.folder),
    }
    try:
        for line in run[options.command]():
            print(line)
    except BrokenPipeError:  # told where a program's endings are
        raise
    except (*_WRONG, OSError) as exc:
        subject = (options.estimator or options.file or "init") if options.command == "init" else options.folder
        print(f"{subject}: {exc}", file=sys.stderr)
        return 1
    return 0


ON_A_PAGE = 24
Answered = tuple[Request, Prediction]


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
        model: Any = load(package(source, Path(scratch) / "package"))
        subjects = list(_subjects(source, model, inputs, ON_A_PAGE))
        settings = check_serving(source)
        count = settings["count"] if isinstance(model, ObjectDetector) else 3
        answers = [(request, answer(model, request, count)) for request in subjects]
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


def _pictures(model: ImageClassifier, answers: Sequence[Answered]) -> str:
    wanted, shown = model.preprocessing, []
    for request, prediction in answers:
        given, what, expected = request.image, str(request.request_id), request.label
        pixels = model.samples[request.index or 0] if given is None else wanted.decode(given).pixels
        tensor = wanted.apply(pixels)
        best = prediction.scores[0].label
        others = ", ".join(f"{score.label} {score.probability:.3f}" for score in prediction.scores)
        values = f"{others}; {what}, {wanted.width} x {wanted.height}, values {tensor.min():.2f} to {tensor.max():.2f}"
        more = f"is {expected}; {values}" if expected else values
        shown.append((as_png(pixels), what, best, more, bool(expected) and expected != best))
    return page.pictures(shown, large=max(wanted.width, wanted.height) > 32)


def _objects(model: ObjectDetector, answers: Sequence[Answered], threshold: float) -> str:
    """Pictures with what was found in them, and in green what is there, where the samples say so."""
    shown, there = [], detections.truths_of(model.package)
    for request, prediction in answers:
        what = request.request_id
        found, truths = above(prediction, threshold), []
        picture = request.image
        if picture is None:
            picture = as_png(model.samples[request.index or 0])
            truths = there[request.index or 0] if there else []
        said, size = f"{len(found)} object{'' if len(found) == 1 else 's'}", " x ".join(map(str, prediction.size or ()))
        more = f"{f'of {len(truths)} that are there, ' if truths else ''}{what}, {size}"
        named = ", ".join(f"{score.label} {score.probability:.2f}" for score in found)
        shown.append((detections.drawn(picture, found, truths), f"{what}: {named or 'nothing'}", said, more, False))
    return page.pictures(shown, large=True)


def _table(model: Any, answers: Sequence[Answered]) -> str:
    rows = []
    for request, prediction in answers:
        seen: Any = request.features if request.features is not None else request.inputs
        if request.index is not None and isinstance(model, TabularClassifier):
            seen = np.round(model.samples[request.index].astype(float), 4).tolist()
        said = ", ".join(f"{score.label} {score.probability:.3f}" for score in prediction.scores)
        answered = said or json.dumps(prediction.outputs)[:300]
        rows.append((str(request.request_id), json.dumps(seen)[:300], answered, request.label or ""))
    return page.table("Inputs and answers", ("input", "values", "said", "is"), rows)


if __name__ == "__main__":
    sys.exit(main())
