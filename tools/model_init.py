"""Makes a model's folder and its entry in a stage's file out of an ONNX file: `python -m tools.model init`."""

import argparse
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config.loader import FOLDER, load_stage
from config.places import MODELS
from edge_constructs.model_runtime import advice, weight_files
from edge_constructs.model_source import DECLARATION, ModelDeclarationError
from edge_inference.models.detection import SEPARATE
from edge_inference.models.package import DTYPES, FLOATS, FREE, IMAGES, OBJECTS, TABLES, TASKS, TENSORS
from edge_inference.models.runtime import import_engine
from tools import estimators
from tools.detections import Tensor, box_values, is_free, is_picture, seen_detection
from tools.model_folder import check_name, declaration_text
from twin.files import write_whole

Checker = Callable[[Path, Sequence[str]], Iterator[str]]
#: What pixels a model was trained on.
PIXELS: dict[str, dict[str, list[float]]] = {
    "0-1": {},
    "0-255": {"mean": [0.0], "std": [1 / 255]},
    "around-0": {"mean": [0.5], "std": [0.5]},
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
_ELEMENTS = {runtime: name for name, runtime in DTYPES.items()}
_TRIES = 4
#: The graph's file in the folder, whatever it was called.
_SOURCE = "model.onnx"
#: What a task has a use for.
_PICTURE = ("labels", "size", "pixels", "resize", "order")
_VALUES = ("labels", "output", "probabilities")
_FLAGS = {IMAGES: (*_PICTURE, *_VALUES), OBJECTS: _PICTURE, TABLES: ("features", *_VALUES), TENSORS: ()}


class ModelInitError(ValueError):
    """No folder can be made; the text lists what is missing, or says what is wrong."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    command.add_argument(
        "file", type=Path, nargs="?", help="the ONNX file; weights in files of their own are found beside it"
    )
    command.add_argument(
        "--from", dest="estimator", type=Path, metavar="SKOPS", help="a scikit-learn estimator in place of an ONNX file"
    )
    command.add_argument(
        "--trust", action="append", default=[], metavar="TYPE", help="load this type of an estimator of your own, too"
    )
    command.add_argument("--name", help="the model's name in topics and stacks (default: the file's)")
    command.add_argument("--task", choices=TASKS, help="what it does (default: seen in its shapes)")
    command.add_argument("--labels", help="a,b,c in the order of the output; or a file with one a line; or how many")
    command.add_argument("--features", help="a table's columns, a,b,c (default: x0,x1,…)")
    command.add_argument("--size", help="of the picture, 224x224 (width x height), where the graph leaves it free")
    command.add_argument("--pixels", choices=tuple(PIXELS), help="what pixels became for the training")
    command.add_argument("--resize", type=int, help="shorter side before the centre is cut out")
    command.add_argument("--order", choices=("RGB", "BGR"), help="of the channels (default: RGB)")
    command.add_argument("--output", help="the output to classify by, where there are several")
    command.add_argument(
        "--probabilities",
        action=argparse.BooleanOptionalAction,
        help="whether the output holds probabilities (default: tried out)",
    )
    command.add_argument("--stage", default="twin", help="whose file gets the entry; none for no entry")
    command.add_argument("--instead-of", metavar="MODEL", help="leaves the stage's file for it, where no room is left")


class Answers:
    """What the flags say, and where one is missing the person at the terminal.

    Args:
        flags: Parsed.
        ask: Puts a question and returns the answer; None where nobody can be asked.
    """

    def __init__(self, flags: argparse.Namespace, ask: Callable[[str], str] | None) -> None:
        self._flags, self._ask = flags, ask
        self.missing: list[str] = []
        self.left_out: list[str] = []

    def need(self, flag: str, question: str, example: str) -> str:
        """Give a flag's value or the answer to the question; empty, and noted as missing, without either."""
        if given := getattr(self._flags, flag):
            return str(given)
        try:
            if self._ask and (answer := self._ask(f"{question}, such as {example}: ").strip()):
                return answer
        except EOFError:  # Ctrl-D: nobody answers any more
            self._ask = None
        self.missing.append(f"--{flag} must be given, such as --{flag} {example}: {question}")
        return ""


def _read_graph(file: Path) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Load a model: the session, inputs and outputs as a declaration has them; free sizes are -1."""
    engine = import_engine()
    if not file.is_file():
        raise ModelInitError(
            f"FILE must be an ONNX file, got {file}, which is {'a folder' if file.is_dir() else 'missing'}"
        )
    engine.set_default_logger_severity(4)
    try:
        session = engine.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as exc:  # each kind of damage has its own class, down to RuntimeError
        problem = " ".join(str(exc).split())[:400]
        text = f"FILE must be a model that ONNX Runtime {engine.__version__} loads, got {problem}"
        fix = "put the file of its weights beside it" if "External" in problem else advice(problem, engine.__version__)
        raise ModelInitError(f"{text}: {fix}") from exc

    def tensors(found: Iterable[Any]) -> list[Tensor]:
        return [
            {"name": each.name, "dtype": _ELEMENTS.get(each.type, each.type), "shape": list(map(_size, each.shape))}
            for each in found
        ]

    return session, tensors(session.get_inputs()), tensors(session.get_outputs())


def _size(size: object) -> int:
    return size if isinstance(size, int) and size > 0 else FREE


def _seen_task(inputs: Sequence[Tensor], outputs: Sequence[Tensor], labels: int) -> str:
    """Guess the task by the shapes of the graph, and by the number of labels, where somebody said."""
    if len(inputs) == 1 and is_picture(inputs[0]["shape"]) and seen_detection(inputs[0], outputs, labels) is not None:
        return OBJECTS
    numbers = [each for each in outputs if each["dtype"] in FLOATS]
    if len(inputs) == 1 and len(numbers) == 1:
        rank, last = len(inputs[0]["shape"]), len(numbers[0]["shape"])
        if rank == 4 and is_picture(inputs[0]["shape"]) and last != 3:
            return IMAGES
        if rank == 2 and last <= 2:
            return TABLES
    zipped = any("seq(map" in each["dtype"] for each in outputs)
    return TABLES if len(inputs) == 1 and len(inputs[0]["shape"]) == 2 and zipped else TENSORS


def declaration_of(flags: argparse.Namespace, answers: Answers) -> dict[str, Any]:
    """Declare a model by its graph, the flags and the answers.

    Args:
        flags: Parsed.
        answers: For what the graph does not say.

    Raises:
        ModelInitError: Something is missing or cannot be; everything missing is listed.
    """
    session, inputs, outputs = _read_graph(flags.file)
    given = _labels(flags.labels or "")
    task = flags.task or _seen_task(inputs, outputs, len(given))
    _check_flags(flags, task)
    name = flags.name or re.sub(r"[^a-z0-9]+", "-", flags.file.stem.lower()).strip("-")
    declared: dict[str, Any] = {"name": name, "task": task, "framework": "ONNX", "source": _SOURCE}
    if extras := weight_files(flags.file):
        declared["extras"] = extras
    if taken := sorted({DECLARATION, _SOURCE} & set(extras)):
        raise ModelInitError(f"weights must be in a file of another name than {taken[0]}: export them anew")
    if task == TENSORS:
        kept = _tensors(inputs, outputs, answers)
        for tensor in (*inputs, *kept):
            tensor["shape"][:1] = [1 if size == FREE else size for size in tensor["shape"][:1]]
        return {**declared, "inputs": inputs, "outputs": kept}
    if len(inputs) != 1:
        raise ModelInitError(
            f"{task} needs one input, got {', '.join(each['name'] for each in inputs)}: --task tensors"
        )
    if task == OBJECTS:
        return {**declared, **_detector(session, inputs[0], outputs, flags, answers)}
    output = _output(outputs, flags.output)
    _one_at_a_time(inputs[0])
    if task == IMAGES:
        declared["preprocessing"] = _preprocessing(inputs[0], flags, answers)
    else:
        declared["features"] = _features(inputs[0], flags, answers)
    labels = _labels(answers.need("labels", "what the output's values stand for", "good,bad or a file"))
    if answers.missing:
        raise ModelInitError("\n".join(answers.missing))
    results = [_run(session, inputs[0], output["name"], number) for number in range(_TRIES)]
    output["shape"] = list(results[0].shape)
    if (size := results[0].size) != len(labels) and (size, len(labels)) != (1, 2):
        text = f"--labels must be {size}, as many as {output['name']} has values"
        shown = ", ".join(labels[:3]) + (", …" if labels[3:] else "")
        raise ModelInitError(f"{text}, got {len(labels)} ({shown}) for the shape {output['shape']}: or --task tensors")
    # A model of 8 bits rounds each value to a 256th.
    off = 1e-3 + size / 512
    likely = all(each.min() >= 0 and (size == 1 or abs(float(each.sum()) - 1) < off) for each in results)
    if size == 1:
        # Between 0 and 1 a logit may lie, too, until the inputs are large.
        results += [_run(session, inputs[0], output["name"], 0, factor) for factor in (-1e3, 1e3)]
        likely = all(each.min() >= 0 and each.max() <= 1 for each in results if np.isfinite(each).all())
    if likely if flags.probabilities is None else flags.probabilities:
        declared["probabilities"] = True
    return {**declared, "inputs": inputs, "outputs": [output], "labels": labels}


def _check_flags(flags: argparse.Namespace, task: str) -> None:
    """Refuse what would be without effect: its author means another task than the one that is made."""
    given = [name for name in (*_PICTURE, "features", *_VALUES[1:]) if getattr(flags, name) is not None]
    if useless := [f"--{name}" for name in given if name not in _FLAGS[task]]:
        seen = "" if flags.task else ", which the shapes look like: leave it out, or give --task"
        raise ModelInitError(f"{', '.join(useless)} must be left out with the task {task}{seen}")


def _tensors(inputs: Sequence[Tensor], outputs: Sequence[Tensor], answers: Answers) -> list[Tensor]:
    """The outputs that a request can be answered with."""
    kept = [each for each in outputs if each["dtype"] in DTYPES]
    answers.left_out = [f"{each['name']} ({each['dtype']})" for each in outputs if each not in kept]
    wrong = [f"{each['name']} ({each['dtype']})" for each in inputs if each["dtype"] not in DTYPES]
    if wrong or not inputs or not kept:
        got = ", ".join(wrong or answers.left_out) or "none"
        what = "outputs" if inputs and not wrong else "inputs"
        raise ModelInitError(f"{what} must be tensors of {', '.join(DTYPES)}, got {got}: export it with such")
    return kept


def _one_at_a_time(tensor: Tensor) -> None:
    """Fix the batch."""
    if tensor["shape"][:1] not in ([1], [FREE]):
        text = f"{tensor['name']} must have a batch of 1, or a free one, got the shape {tensor['shape']}"
        raise ModelInitError(f"{text}: export it so, or --task tensors")
    tensor["shape"][0] = 1


def _detector(
    session: Any, picture: Tensor, outputs: Sequence[Tensor], flags: argparse.Namespace, answers: Answers
) -> dict[str, Any]:
    """What a declaration says of a detector; what its graph leaves free is tried out."""
    if len(picture["shape"]) == 4:
        _one_at_a_time(picture)
    preprocessing = _preprocessing(picture, flags, answers)
    labels = _labels(answers.need("labels", "what the classes are called", "cat,dog or a file"))
    if answers.missing:
        raise ModelInitError("\n".join(answers.missing))
    if len(outputs) == 1 and FREE in outputs[0]["shape"]:
        count = list(_run(session, picture, outputs[0]["name"], 0).shape)
        detection = seen_detection(picture, [{**outputs[0], "shape": count}], len(labels), asked=True)
    else:
        detection = seen_detection(picture, outputs, len(labels), asked=True)
    if detection is None:
        there = ", ".join(f"{each['name']} {each['shape']}" for each in outputs)
        raise ModelInitError(
            f"a detector must have outputs of boxes and scores, one of rows, or a grid, got {there}: --task tensors"
        )
    used = {str(value) for value in detection.values()} if detection["form"] == SEPARATE else {outputs[0]["name"]}
    kept = [each for each in outputs if each["name"] in used]
    for each in kept:
        if len(each["shape"]) > 1 and len(picture["shape"]) == 4:
            each["shape"][:1] = [1 if size == FREE else size for size in each["shape"][:1]]
    found = _run(session, picture, str(detection.get("boxes", outputs[0]["name"])), 0)
    for each in kept:
        if not each["shape"]:  # the graph says none
            each["shape"] = list(_run(session, picture, each["name"], 0).shape)
    # Where nothing was found, suppression fills up with zeros.
    if "unit" not in detection and 0 < np.abs(box_values(found, detection, len(labels))).max(initial=0) <= 1:
        detection["unit"] = "share"
    return {
        "inputs": [picture], "outputs": kept, "labels": labels, "preprocessing": preprocessing, "detection": detection,
    }  # fmt: skip


def _output(outputs: Sequence[Tensor], wanted: str | None) -> Tensor:
    found = [each for each in outputs if each["dtype"] in FLOATS and wanted in (None, each["name"])]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{each['name']} ({each['dtype']})" for each in outputs)
    fix = "export a scikit-learn model with options={'zipmap': False}" if "seq(map" in there else "give --output NAME"
    raise ModelInitError(f"one output must hold the classes' values, got {there}: {fix}, or --task tensors")


def _preprocessing(tensor: Tensor, flags: argparse.Namespace, answers: Answers) -> dict[str, Any]:
    whole = tensor["shape"]
    shape = [1, *whole] if len(whole) == 3 else whole  # torchvision's detectors take no batch
    if is_free(shape):
        shape[1] = 3  # as PyTorch has it; another one does not run
    channels_last = len(shape) == 4 and shape[3] in (1, 3) and shape[1] not in (1, 3)
    if len(shape) != 4 or shape[3 if channels_last else 1] not in (1, 3):
        text = "a picture's input must have the shape [1, 1 or 3, height, width] or [1, height, width, 1 or 3]"
        raise ModelInitError(f"{text}, got {shape}: export it with these sizes, or --task tensors")
    across, down = (2, 1) if channels_last else (3, 2)
    if FREE in (shape[across], shape[down]):
        size = answers.need("size", "width x height of the picture, which the graph leaves free", "224x224")
        if size and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
            raise ModelInitError(f"--size must be WIDTHxHEIGHT, such as 224x224, got {size}")
        shape[across], shape[down] = map(int, size.split("x")) if size else (1, 1)
        whole[:] = shape[-len(whole) :]
    elif flags.size and flags.size != f"{shape[across]}x{shape[down]}":
        raise ModelInitError(f"--size must be {shape[across]}x{shape[down]}, as the graph has it, got {flags.size}")
    channels = shape[3 if channels_last else 1]
    found: dict[str, Any] = {"width": shape[across], "height": shape[down], "mode": "RGB" if channels == 3 else "L"}
    if tensor["dtype"] != "uint8":
        pixels = answers.need("pixels", "what pixels became for the training", " or ".join(PIXELS))
        if pixels and pixels not in PIXELS:
            raise ModelInitError(f"--pixels must be one of {', '.join(PIXELS)}, got {pixels}")
        if pixels == "imagenet" and channels == 1:
            raise ModelInitError("--pixels imagenet is for three channels, the model takes one")
        found |= {key: values * (channels if len(values) == 1 else 1) for key, values in PIXELS.get(pixels, {}).items()}
    elif flags.pixels not in (None, "0-255"):
        raise ModelInitError(f"--pixels must be 0-255 with an input of uint8, or left out, got {flags.pixels}")
    found |= {"layout": "NHWC"} if channels_last else {}
    return found | {key: value for key in ("resize", "order") if (value := getattr(flags, key))}


def _features(tensor: Tensor, flags: argparse.Namespace, answers: Answers) -> list[str]:
    """The table's columns: as given, else numbered; they fill in a width that the graph leaves free."""
    if len(tensor["shape"]) != 2:
        raise ModelInitError(
            f"a table's input must have the shape [1, features], got {tensor['shape']}: --task tensors"
        )
    names = _listed(flags.features or "", "features")
    if tensor["shape"][1] == FREE:
        asked = answers.need("features", "the columns, which the graph leaves free", "age,height")
        names = names or _listed(asked, "features")
        tensor["shape"][1] = len(names) or 1
    names = names or [f"x{number}" for number in range(tensor["shape"][1])]
    if tensor["shape"][1] != len(names):
        raise ModelInitError(f"--features must be {tensor['shape'][1]}, as the input has, got {len(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelInitError(f"--features must name each column once, twice there: {', '.join(twice[:5])}")
    return names


def _labels(text: str) -> list[str]:
    """The labels' names; a number stands for so many."""
    labels = _listed(text, "labels")
    if len(labels) == 1 and re.fullmatch(r"\d{1,6}", labels[0]):
        labels = [f"class {number}" for number in range(int(labels[0]))]
    return labels


def _listed(text: str, flag: str) -> list[str]:
    try:
        if text and Path(text).is_file():
            lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
            return [line.strip() for line in lines if line.strip()]
    except UnicodeDecodeError as exc:
        raise ModelInitError(f"--{flag} must be a file in UTF-8, got {text}: {exc}: save it so") from exc
    except OSError:  # too long for a file's name
        pass
    if re.fullmatch(r"[^,]+\.(txt|csv|json|names|ya?ml)", text):
        raise ModelInitError(f"--{flag} must be a file with one a line, or a,b,c, got {text}, which is missing")
    return [part.strip() for part in text.split(",") if part.strip()]


def _run(session: Any, tensor: Tensor, output: str, number: int, factor: float = 1) -> Any:
    try:
        values = np.random.default_rng(number).random(tensor["shape"]) * (255 if "int" in tensor["dtype"] else factor)
        return session.run([output], {tensor["name"]: np.asarray(values, tensor["dtype"])})[0]
    except Exception as exc:  # as on the device: whatever a graph raises
        raise ModelInitError(f"the model must run on {tensor['shape']} of {tensor['dtype']}, got {exc}") from exc


def add_to_stage(stage: str, name: str, instead_of: str | None = None, folder: Path = FOLDER) -> str:
    """List a model in a stage's file, behind its other models; one that is listed stays as it is.

    Args:
        stage: The stage's name.
        name: The model's.
        instead_of: A model whose entry, and whose thresholds, leave the file.
        folder: Of the stages' files.

    Returns:
        What was done.

    Raises:
        ConfigurationError: The stage cannot be read, or not with the model; then its file is as it was.
        ModelInitError: Its models are written in a way that no entry can be added to; likewise.
    """
    listed = _listed_in(stage, instead_of, folder, name)
    if name in listed:
        return f"{folder.name}/{stage}.toml lists {name} already"
    path = folder / f"{stage}.toml"
    before = path.read_text(encoding="utf-8")
    write_whole(path, _with_entry(before, name, instead_of, f"{folder.name}/{path.name}"))
    try:
        load_stage(stage, folder)
    except BaseException:
        write_whole(path, before)
        raise
    return f"{folder.name}/{stage}.toml lists {name} now" + (f" in place of {instead_of}" if instead_of else "")


def _listed_in(stage: str, instead_of: str | None, folder: Path, name: str = "") -> list[str]:
    """The models of a stage, among which is the one that is to leave, unless the new one is there already."""
    listed = [model.folder for model in load_stage(stage, folder).models]
    if instead_of is not None and not {instead_of, name} & set(listed):
        raise ModelInitError(f"--instead-of must be one of {', '.join(listed)}, got {instead_of}")
    return listed


_TABLE = re.compile(r"^(?=[ \t]*\[)", re.MULTILINE)
_ENTRY = re.compile(r"""\s*\[\[\s*["']?models["']?\s*\]\]""")
#: A table of an entry, such as `[models.serving]`: it belongs to the entry before it.
_PART = re.compile(r"""\s*\[\s*["']?models["']?\s*\.""")


def _with_entry(text: str, name: str, instead_of: str | None, shown: str) -> str:
    """A stage's file with an entry for a model, and without the tables of another; the rest stays as it is."""
    entry = {"folder": name, "compiler": "none"}
    folder = re.compile(rf"""\s*folder\s*=\s*["']{instead_of or ""}["']""")
    thresholds = re.compile(rf"""\s*\[observability\.models\.["']?{instead_of or ""}["']?[].]""")
    kept: list[str] = []
    in_models = gone = False
    end = 0
    for table in _TABLE.split(text):
        if _ENTRY.match(table):
            in_models, gone = True, any(map(folder.match, table.splitlines()))
        elif not (in_models and _PART.match(table)):
            in_models, gone = False, thresholds.match(table) is not None
        if not gone:
            kept.append(table)
        if in_models:
            end = len(kept)
    if end:
        before, after = "".join(kept[:end]), "".join(kept[end:])
        told = before.rstrip()
        added = "\n".join(["", "", "[[models]]", *(f'{key} = "{value}"' for key, value in entry.items())])
        made = f"{told}{added}{before[len(told) :]}{after}".rstrip("\n") + "\n"
        if _differs_by_an_entry(text, made, entry, instead_of):
            return made
    raise ModelInitError(
        f"{shown} must list its models as tables [[models]], so that one can be added: write folder = {name!r} there "
        "yourself, and give --stage none"
    )


def _differs_by_an_entry(before: str, after: str, entry: dict[str, str], instead_of: str | None) -> bool:
    """Whether nothing else has changed: lines are not all that TOML may be written in."""
    try:
        old, new = (tomllib.loads(text.removeprefix("\ufeff")) for text in (before, after))
    except tomllib.TOMLDecodeError:
        return False
    models = [model for model in old["models"] if model["folder"] != instead_of]

    def rest(stage: dict[str, Any]) -> dict[str, Any]:
        observed = {key: value for key, value in stage.get("observability", {}).items() if key != "models"}
        return {**stage, "models": [], "observability": observed}

    return new["models"] == [*models, entry] and rest(new) == rest(old)


def init(flags: argparse.Namespace, check: Checker, models: Path = MODELS, stages: Path = FOLDER) -> Iterator[str]:
    """Make a model's folder, check it, list it in a stage.

    Args:
        flags: Parsed.
        check: Loads a folder and predicts.
        models: Where the folder is made, once the check has passed.
        stages: Folder of the stages' files.

    Yields:
        Lines for people.

    Raises:
        ModelInitError, ConfigurationError: See above.
        Exception: What the check raises.
    """
    if (flags.file is None) == (flags.estimator is None):
        raise ModelInitError("either FILE or --from must be given: an ONNX file, or a scikit-learn estimator")
    with tempfile.TemporaryDirectory() as scratch:
        if flags.estimator is not None:
            yield from _convert(flags, Path(scratch))
        yield from _init(flags, check, models, stages)


def _convert(flags: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Let the flags speak of an ONNX file in place of the estimator's; what it says of itself they need not."""
    found = estimators.convert(flags.estimator, folder, import_engine(), flags.trust)
    flags.file = found.model
    if not found.labels and not flags.labels:
        flags.task = flags.task or TENSORS  # what it says are values, not classes
    for flag, names in (("labels", found.labels), ("features", found.features)):
        if names and not getattr(flags, flag):
            # A file, since names may hold commas.
            file = folder / f"{flag}.txt"
            file.write_text("\n".join(names), encoding="utf-8")
            setattr(flags, flag, str(file))
    yield f"{flags.estimator.name}: as ONNX it gives what the estimator gives, to {found.difference:.1g}"
    yield from (f"{flags.estimator.name}: {note}" for note in found.notes)


def _init(flags: argparse.Namespace, check: Checker, models: Path, stages: Path) -> Iterator[str]:
    if flags.stage != "none":
        _listed_in(flags.stage, flags.instead_of, stages)  # before there is a folder
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    answers = Answers(flags, input if terminal else None)
    declared = declaration_of(flags, answers)
    name = declared["name"]
    try:
        check_name(name)
    except ModelDeclarationError as exc:
        raise ModelInitError(f"{exc}: give another --name") from exc
    if (models / name).exists():
        raise ModelInitError(f"{models / name} must be new: remove it, or give another --name")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / name
        made.mkdir()
        for extra in declared.get("extras", ()):
            (made / extra).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(flags.file.parent / extra, made / extra)
        shutil.copyfile(flags.file, made / _SOURCE)
        (made / DECLARATION).write_text(declaration_text(declared), encoding="utf-8")
        yield from check(made, [])
        if declared["task"] == OBJECTS:
            read = ", ".join(f"{key} {value}" for key, value in declared["detection"].items())
            yield f"the outputs are read as {read}"
        elif declared["task"] != TENSORS:
            yield f"the output is taken for {'probabilities' if 'probabilities' in declared else 'logits'}"
        if answers.left_out:
            yield f"left out, as no answer can hold it: {', '.join(answers.left_out)}"
        models.mkdir(parents=True, exist_ok=True)
        # Beside its place, and moved there whole: what is cut short leaves no half of a folder.
        with tempfile.TemporaryDirectory(prefix=".", dir=models) as beside:
            shutil.copytree(made, Path(beside) / name).rename(models / name)
    try:
        # Before anything is told: a reader that goes (`| head`) ends the program.
        listed = "" if flags.stage == "none" else add_to_stage(flags.stage, name, flags.instead_of, stages)
    except BaseException:
        shutil.rmtree(models / name)
        raise
    yield f"made {models / name}; change what it says in {DECLARATION}"
    if not listed:
        return
    yield listed
    subject = {IMAGES: "--image FILE", OBJECTS: "--image FILE", TABLES: "--features '[…]'"}.get(
        declared["task"], "--inputs '{…}'"
    )
    where = "twin predict" if flags.stage == "twin" else "tools.predict"
    stage = "" if flags.stage == "twin" else f" --stage {flags.stage}"
    yield f"next: npx cdk deploy --all -c stage={flags.stage}, then python -m {where} {name}{stage} {subject}"
