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
from collections.abc import Iterator, Sequence
from pathlib import Path

from config.loader import ConfigurationError as StageError
from config.model import labels_in_an_answer
from edge_component.settings import ConfigurationError
from edge_constructs.model_runtime import check_model, device_runtime, installed_runtime, unlike_on_openvino
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_inference.messages import Request, RequestError, Score, above
from edge_inference.models.detection import MOST
from edge_inference.models.package import OBJECTS, TENSORS, ModelPackageError
from edge_inference.models.store import Workload
from tools import detections, model_init, model_preview, model_reference
from tools.estimators import EstimatorError
from tools.model_folder import answer, asked, check_name, check_serving, load, package, sample_labels, whole_path

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
    check_runtime()
    check_model(source)
    source = ModelSource.read(folder)
    serving = {"topK": labels_in_an_answer(source.declaration), **source.declaration.get("serving", {})}
    settings = check_serving(source.name, serving)
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
        picture = Path(scratch) / "package" / str(serving.get("ImageName", ""))
        if not inputs and picture.is_file():
            inputs = [str(picture)]
        for text in inputs:
            name, request = asked(text)
            yield _line(name, model, request, **settings)
        if not inputs and model.package.samples is not None and model.package.task != TENSORS:
            yield from _samples(model, **settings)


def check_runtime() -> None:
    """Check that this environment has the devices' ONNX Runtime: another one may load what they do not.

    Raises:
        ModelPackageError: It has another one, or none.
    """
    engine, wanted = installed_runtime(), device_runtime()
    found = "none" if engine is None else str(engine.__version__)
    if found != wanted:
        raise ModelPackageError(f"onnxruntime must be {wanted}, as on the devices, got {found}: run make setup")


def _line(name: str, model: Workload, request: Request, count: int, threshold: float) -> str:
    started = time.perf_counter()
    prediction = answer(model, name, request, count)
    latency_ms = (time.perf_counter() - started) * 1000
    found = ", ".join(map(_said, above(prediction, threshold)))
    if not prediction.scores and prediction.size is None:
        found = json.dumps(prediction.outputs)[:200]
    return f"{name}: {found or f'nothing with a score of {threshold:g} or above'} ({latency_ms:.2f} ms)"


def _said(score: Score) -> str:
    at = "" if score.box is None else f" at {', '.join(f'{place:.0f}' for place in score.box)}"
    return f"{score.label} {score.probability:.3f}{at}"


def _samples(model: Workload, count: int, threshold: float) -> Iterator[str]:
    labels, size = sample_labels(model.package), len(getattr(model, "samples", ()))
    for index in range(min(size, SHOWN)):
        expected = f" (is {labels[index]})" if labels else ""
        yield _line(f"sample {index}{expected}", model, Request(None, index=index), count, threshold)
    if model.package.task == OBJECTS:
        there = detections.truths_of(model.package)
        if there:
            found = [answer(model, f"sample {n}", Request(None, index=n), MOST).scores for n in range(size)]
            precision = detections.mean_average_precision(found, there)
            yield f"mean average precision {precision:.4f} on {size} samples, at an overlap of {detections.OVERLAP}"
    elif labels:
        said = [answer(model, f"sample {n}", Request(None, index=n), 1).scores[0].label for n in range(size)]
        right = sum(label == wanted for label, wanted in zip(said, labels, strict=True))
        yield f"{right} of {size} samples right ({right / size:.4f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 the model works, 1 with the reason on standard error.
    """
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
    model_preview.add_arguments(commands.add_parser("preview", help="show what the model sees and says, as a page"))
    model_reference.add_arguments(commands.add_parser("reference", help="write what its samples look like"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # that no signature is checked is no news here
    try:
        if options.command == "init":
            lines = model_init.init(options, check)
        elif options.command == "preview":
            lines = model_preview.preview(options.folder, options.inputs, options.out)
        elif options.command == "reference":
            lines = model_reference.write_reference(options.folder)
        else:
            lines = check(options.folder, options.inputs)
        for line in lines:
            print(line)
    except BrokenPipeError:  # told where a program's endings are
        raise
    except (*_WRONG, OSError) as exc:
        subject = (options.estimator or options.file or "init") if options.command == "init" else options.folder
        print(f"{subject}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
