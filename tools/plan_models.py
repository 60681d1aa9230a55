"""What a changed model says of the inputs it was held to: agreement with the one before, and what changed its label."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edge_component.settings import ConfigurationError
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_inference.comparison import agree, named
from edge_inference.messages import Prediction, Request, RequestError
from edge_inference.models.package import TENSORS, ModelPackageError
from tools.model_folder import answer, as_png, check_serving, load, own_samples, package
from twin.page import html as page

MODELS = Path("edge_assets", "models")
#: Inputs of a model; a detector takes some milliseconds for each.
MOST_INPUTS = 500
SHOWN = 10
RECORD_BYTES = 8 << 20


@dataclass(frozen=True)
class Changed:
    """An input of which the two say different things.

    Attributes:
        name: Which it is.
        before: What the one before said, with its confidence.
        after: What the new one says.
        truth: What it is; empty where nobody has said.
        picture: As PNG; None for a row, or where it cannot be shown.
    """

    name: str
    before: str
    after: str
    truth: str
    picture: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ModelChange:
    """What becomes of a model.

    Attributes:
        name: Its folder.
        problem: Why the two could not be compared; empty where they were.
        inputs: How many were compared.
        source: Where they are from.
        agreed: Of those, with the same answer.
        labelled: Inputs whose truth is known.
        right: Of those, that each of the two gets right.
        confidence: Mean confidence of each.
        latency_ms: Median latency of each, on this machine, in turn.
        changed: Those that differ most; at most ten.
        unread: Inputs that the one before cannot answer, or no model can read, such as a picture that is cut off.
    """

    name: str
    problem: str = ""
    inputs: int = 0
    source: str = ""
    agreed: int = 0
    labelled: int = 0
    right: tuple[int, int] = (0, 0)
    confidence: tuple[float, float] = (0.0, 0.0)
    latency_ms: tuple[float, float] = (0.0, 0.0)
    changed: tuple[Changed, ...] = ()
    unread: int = 0

    @property
    def what(self) -> str:
        """What was compared."""
        return f"{self.inputs} {self.source}" + (f" ({self.unread} more cannot be read)" if self.unread else "")

    def as_dict(self) -> dict[str, Any]:
        """As JSON, without the pictures."""
        changed = [{key: value for key, value in vars(each).items() if key != "picture"} for each in self.changed]
        return {**vars(self), "changed": changed}


def changed_models(before: Path, after: Path, names: Sequence[str], captures: Path | None = None) -> list[ModelChange]:
    """Compare the models of two checkouts that are not the same.

    Args:
        before: The one checkout.
        after: The other.
        names: Folders of models, of which either may lack some.
        captures: Folder with captured records and their pictures, as they lie below `captures/` of the bucket; by
            default the samples of the new model are taken, or those of the one before.

    Returns:
        One for each model that both have and that differs.
    """
    found = []
    for name in sorted(set(names)):
        folders = [root / MODELS / name for root in (before, after)]
        if not all((folder / "model.json").is_file() for folder in folders) or _content(folders[0]) == _content(
            folders[1]
        ):
            continue
        try:
            found.append(_compared(name, folders[0], folders[1], captures))
        except (ModelDeclarationError, ModelPackageError, ConfigurationError, RequestError, ValueError, OSError) as exc:
            found.append(ModelChange(name, problem=" ".join(str(exc).split())[:500]))
    return found


def _content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _compared(name: str, before: Path, after: Path, captures: Path | None) -> ModelChange:
    sources = [ModelSource.read(folder, check_reference=False) for folder in (before, after)]
    settings = check_serving(sources[1])
    with tempfile.TemporaryDirectory(prefix="edgewright-models-") as scratch:
        models: list[Any] = [
            load(package(source, Path(scratch) / which)) for source, which in zip(sources, "ab", strict=True)
        ]
        if any(model.package.task == TENSORS for model in models):
            return ModelChange(name, problem="tensors have no held-out inputs")
        if captures is not None:
            asked, source = list(_captured(captures, name)), "captured"
        else:
            asked, source = _samples(models), "held out"
        read = [request for request in asked if _is_readable(models[1], request)]
        if asked and not read:
            return ModelChange(name, problem=f"none of {len(asked)} {source} inputs can be read")
        if not asked:
            return ModelChange(name, problem=f"no inputs are {source}: name samples, or give --captures")
        return _asked(name, models, read, source, len(asked) - len(read), **settings)


def _is_readable(model: Any, request: Request) -> bool:
    """Whether an input is whole: one that is not says nothing of either model."""
    try:
        if request.image is not None and hasattr(model, "preprocessing"):
            model.preprocessing.decode(request.image)
    except RequestError:
        return False
    return True


def _samples(models: list[Any]) -> list[Request]:
    """Requests for the new model's samples, or for those of the one before; both models get the same ones."""
    owner = models[1] if len(models[1].samples) else models[0]
    if any(model.samples.shape[1:] != owner.samples.shape[1:] for model in models):
        raise ValueError("inputs of another form: the two cannot be given the same ones")
    for place, model in enumerate(models):
        models[place] = replace(model, samples=owner.samples)
    return own_samples(owner, MOST_INPUTS)


def _captured(folder: Path, model: str) -> Iterator[Request]:
    """Requests of captured records; one of another model, or that is no record, is passed over."""
    records = ((file, line) for file in sorted(folder.rglob("*.json*")) for line in _lines(file))
    found = (request for file, line in records if (request := _recorded(file, line, model)) is not None)
    yield from islice(found, MOST_INPUTS)


def _lines(file: Path) -> list[str]:
    """Records of a file: one a line, as in the bucket, or a single one, as on a device."""
    with suppress(OSError, ValueError):
        if file.stat().st_size <= RECORD_BYTES:
            return file.read_text(encoding="utf-8").splitlines()
    return []


def _recorded(file: Path, line: str, model: str) -> Request | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        record = json.loads(line)
        if record["model"]["name"] != model:
            return None
        given, picture = record.get("input") or {}, record.get("picture")
        image = (file.parent / Path(picture).name).read_bytes() if picture else None
        if image is None and given.get("features") is None:
            return None
        label = record.get("label")
        truth = None if label is None else str(label)
        return Request(str(record["id"]), image=image, features=given.get("features"), label=truth)
    return None


def _asked(
    name: str, models: Sequence[Any], asked: Sequence[Request], source: str, unread: int, count: int, threshold: float
) -> ModelChange:
    agreed = labelled = compared = 0
    right, sure, times = [0, 0], [[], []], [[], []]  # type: tuple[list[int], list[list[float]], list[list[float]]]
    changed: list[tuple[float, Changed]] = []
    for request in asked:
        answers: list[Prediction] = []
        try:
            for place, model in enumerate(models):
                started = time.perf_counter()
                answers.append(answer(model, request, count))
                times[place].append((time.perf_counter() - started) * 1000)
        except RequestError:
            if answers:  # the one before has an answer, so that this is the new one's fault
                raise
            unread += 1
            continue
        compared += 1
        for place in range(len(models)):
            sure[place].append(answers[place].confidence(threshold) or 0.0)
            right[place] += request.label is not None and named(answers[place], threshold) == request.label
        labelled += request.label is not None
        if agree(answers[0], answers[1], threshold):
            agreed += 1
            continue
        said = [f"{named(each, threshold)} {sure[place][-1]:.2f}" for place, each in enumerate(answers)]
        picture = _picture(models[1], request)
        entry = Changed(request.request_id or "", said[0], said[1], request.label or "", picture)
        changed = sorted([*changed, (max(sure[0][-1], sure[1][-1]), entry)], key=lambda each: -each[0])[:SHOWN]
    if not compared:
        return ModelChange(name, problem=f"the one before answers none of {unread} {source} inputs")
    return ModelChange(
        name,
        inputs=compared,
        source=source,
        agreed=agreed,
        labelled=labelled,
        right=(right[0], right[1]),
        confidence=(statistics.fmean(sure[0]), statistics.fmean(sure[1])),
        latency_ms=(statistics.median(times[0]), statistics.median(times[1])),
        changed=tuple(each for _, each in changed),
        unread=unread,
    )


def _picture(model: Any, request: Request) -> bytes | None:
    wanted = model.preprocessing if hasattr(model, "preprocessing") else None
    if wanted is None:
        return None
    pixels = model.samples[request.index] if request.image is None else wanted.decode(request.image).pixels
    return as_png(pixels)


def as_lines(changes: Sequence[ModelChange]) -> Iterator[str]:
    """Write them for a terminal."""
    for each in changes:
        if each.problem:
            yield f"model {each.name} changes: not compared: {each.problem}"
            continue
        right = f", right {each.right[0]} → {each.right[1]} of {each.labelled}" if each.labelled else ""
        yield (
            f"model {each.name} changes: agrees on {each.agreed} of {each.what} inputs{right}, "
            f"median {each.latency_ms[0]:.2f} → {each.latency_ms[1]:.2f} ms here"
        )
        for one in each.changed:
            yield f"  {one.name}: {one.before} → {one.after}{f' (is {one.truth})' if one.truth else ''}"


def as_markdown(changes: Sequence[ModelChange]) -> str:
    """Write them as a part of a pull request's comment; empty without a change."""
    if not changes:
        return ""
    lines = ["**Models that change**, run here with the devices' runtime", ""]
    lines += ["| model | inputs | agreement | right | confidence | median ms |", "|---|---|--:|--:|--:|--:|"]
    for each in changes:
        if each.problem:
            lines.append(f"| `{each.name}` | not compared: {_cell(each.problem)} | | | | |")
            continue
        right = f"{each.right[0]} → {each.right[1]} of {each.labelled}" if each.labelled else "unknown"
        lines.append(
            f"| `{each.name}` | {each.what} | {each.agreed / each.inputs:.1%} | {right} | "
            f"{each.confidence[0]:.3f} → {each.confidence[1]:.3f} | "
            f"{each.latency_ms[0]:.2f} → {each.latency_ms[1]:.2f} |"
        )
    for each in changes:
        if each.changed:
            lines += ["", f"What `{each.name}` says otherwise, the surest first:", ""]
            lines += ["| input | before | after | is |", "|---|---|---|---|"]
            lines += [
                f"| {_cell(one.name)} | {_cell(one.before)} | {_cell(one.after)} | {_cell(one.truth)} |"
                for one in each.changed
            ]
    return "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    """A label is whatever a model's author wrote: as code it is no markup."""
    plain = text.replace("`", "'").replace("|", "/").replace("\n", " ")
    return f"`{plain}`" if plain.strip() else ""


def as_section(changes: Sequence[ModelChange]) -> str:
    """The pictures that changed their label, as HTML of a page; empty without any."""
    shown = [
        (
            one.picture,
            f"{each.name} {one.name}",
            f"{one.before} → {one.after}",
            f"{one.name}{f', is {one.truth}' if one.truth else ''}",
            bool(one.truth) and not one.after.startswith(f"{one.truth} "),
        )
        for each in changes
        for one in each.changed
        if one.picture is not None
    ]
    return page.pictures(shown) if shown else ""
