"""Makes an ONNX file of a scikit-learn estimator: `python -m tools.model init --from estimator.skops`.

A pickle runs whatever it holds when it is read. A skops file names the types that it is made of, and only those that
skops knows as harmless are loaded here; a user may name more, of a file of one's own.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

#: The releases that this is tried with (requirements-dev.txt).
INSTALL = "pip install skops==0.16.0 skl2onnx==1.20.0"
#: Of a file, and of what it holds: an estimator has megabytes, a bomb promises more.
LIMIT_BYTES = 1 << 30
#: The newest that every converter of skl2onnx is written for.
_OPSET = 18
_ROWS = 128  # of each kind
#: In float32 a row next to a limit of a tree may fall on its other side.
_MOST_OFF = 0.01
_SHOWN = 10


class EstimatorError(ValueError):
    """No model can be made of the file; the text says why and what to do."""


@dataclass(frozen=True)
class Estimator:
    """What has become of an estimator.

    Attributes:
        model: The ONNX file.
        features: Names of the columns, where the estimator was fitted with some.
        labels: Its classes, in the order of the output; empty for what is no classifier.
        difference: Largest difference between the estimator's output and the model's.
        notes: What else the user should know of them, a sentence each.
    """

    model: Path
    features: tuple[str, ...]
    labels: tuple[str, ...]
    difference: float
    notes: tuple[str, ...] = ()


def convert(file: Path, folder: Path, engine: Any, trusted: Sequence[str] = ()) -> Estimator:
    """Convert an estimator, and compare both on rows drawn at random: around 0, and around what the estimator knows.

    Args:
        file: Written by `skops.io.dump(estimator, file)`.
        folder: Gets the ONNX file, named after the estimator's.
        engine: ONNX Runtime.
        trusted: Types that the user vouches for, besides those that skops knows as harmless.

    Raises:
        EstimatorError: A package is missing, the file is no skops file or is made of types that nobody vouches for, the
            estimator cannot be converted, or the model gives other values.
    """
    missing = [name for name in ("skops", "skl2onnx") if find_spec(name) is None]
    if missing:
        raise EstimatorError(f"--from needs {' and '.join(missing)}, not found: {INSTALL}")
    estimator = load(file, trusted)
    count = getattr(estimator, "n_features_in_", None)
    if not isinstance(count, int) or not hasattr(estimator, "predict"):
        raise EstimatorError(
            f"{file.name} must hold a fitted estimator that predicts, got {type(estimator).__name__}: call fit first, "
            "or save what predicts"
        )
    from skl2onnx import to_onnx

    classifies = hasattr(estimator, "classes_")
    if classifies and not hasattr(estimator, "predict_proba"):
        raise EstimatorError(
            f"a classifier must give probabilities (predict_proba), {type(estimator).__name__} gives classes alone: "
            "fit CalibratedClassifierCV around it"
        )
    if limits := [value for name, value in _fitted(estimator) if name == "best_threshold_"]:
        raise EstimatorError(
            f"a classifier must name the likeliest class, {type(estimator).__name__} cuts at {limits[0]:.3g}, of which "
            "the model would know nothing: save the estimator_ in it, and compare the probabilities that devices answer"
        )
    if wrong := next(_converted_wrongly(estimator), None):
        raise EstimatorError(f"every step must be one that skl2onnx converts rightly, got {wrong}")
    rows = _accepted(estimator, _rows(estimator, count))
    if not len(rows):
        raise EstimatorError(f"{type(estimator).__name__} must take numbers, it takes no row of them that was tried")
    if classifies and len(targets := np.shape(estimator.predict(rows[:1]))) > 1:
        raise EstimatorError(f"a classifier must have one target, got {targets[1]}: make a model of each")
    options = {"zipmap": False} if classifies else None
    try:
        converted = to_onnx(estimator, rows[:1], options=options, target_opset=_OPSET)
    except Exception as exc:  # a converter raises whatever it meets
        text = f"skl2onnx cannot convert {type(estimator).__name__}: {_reason(exc)}"
        raise EstimatorError(f"{text}; every step must be one that it knows") from exc
    target = folder / f"{file.stem}.onnx"
    target.write_bytes(converted.SerializeToString())
    difference, notes = _compare(estimator, target, rows, engine, classifies=classifies)
    return Estimator(
        target,
        tuple(str(name) for name in getattr(estimator, "feature_names_in_", ())),
        tuple(str(name) for name in estimator.classes_) if classifies else (),
        difference,
        notes,
    )


def _reason(exc: Exception) -> str:
    """The first line of what a library says; its kind where it says nothing."""
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]


def load(file: Path, trusted: Sequence[str] = ()) -> Any:
    """Read a skops file, and nothing that is not known as harmless.

    Args:
        file: The file.
        trusted: As for `convert`.

    Raises:
        EstimatorError: As for `convert`.
    """
    from skops import io

    fix = "skops.io.dump(estimator, 'estimator.skops') writes one"
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except OSError as exc:
        raise EstimatorError(f"--from must be a readable file, got {file}: {exc.strerror}") from exc
    except zipfile.BadZipFile as exc:
        raise EstimatorError(f"--from must be a skops file, never a pickle, got {file}: {fix}") from exc
    if size > LIMIT_BYTES:
        raise EstimatorError(f"--from must hold at most {LIMIT_BYTES} bytes, got {size}")
    try:
        if unknown := sorted(set(io.get_untrusted_types(file=file)) - set(trusted)):
            shown = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else "")
            raise EstimatorError(
                f"{file.name} must be made of types that skops knows as harmless, got {shown}: only where the file is "
                f"your own, --trust {unknown[0]}"
            )
        return io.load(file, trusted=list(trusted))
    except EstimatorError:
        raise
    except Exception as exc:  # what a damaged file, or one of another release, makes skops raise is of any kind
        raise EstimatorError(
            f"--from must be a whole skops file, got {file}: {type(exc).__name__}: {exc}; {fix}"
        ) from exc


def _rows(estimator: Any, count: int) -> Any:
    """Rows around 0, rows around the numbers that the estimator was fitted with, and rows of its categories."""
    random = np.random.default_rng(0)
    known: list[list[Any]] = [[] for _ in range(count)]
    categories: list[list[float]] = [[] for _ in range(count)]
    for name, values in _fitted(estimator):
        if isinstance(values, list) and len(values) == count:
            for column, found in zip(categories if name == "categories_" else known, values, strict=True):
                column += _finite(found)
        elif isinstance(values, np.ndarray) and values.ndim in (1, 2) and values.shape[-1] == count:
            for column, found in zip(known, values.reshape(-1, count).T, strict=True):
                column += _finite(found)
        elif hasattr(values, "threshold") and getattr(values, "n_features", None) == count:
            for feature, limit in zip(values.feature, values.threshold, strict=True):
                if feature >= 0:
                    known[feature].append(float(limit))
    columns: list[Any] = [random.normal(size=(3, _ROWS)) for _ in range(count)]
    for column, near, of in zip(columns, known, categories, strict=True):
        if near:
            column[1] = random.choice(near, _ROWS) + column[1] * float(np.std(near) or abs(near[0]) or 1.0)
        if of:
            column[2] = random.choice(of, _ROWS)
        elif near:
            column[2] = random.uniform(min(near), max(near), _ROWS)
    return np.stack([column.reshape(-1) for column in columns], axis=1).astype(np.float32)


def _fitted(estimator: Any) -> Iterator[tuple[str, Any]]:
    """What an estimator, and all in it, have learnt, by name."""
    for part in _parts(estimator):
        yield from vars(part).items()


def _parts(part: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """An estimator and all estimators in it."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, (list, tuple)) or (isinstance(part, np.ndarray) and part.dtype == object):
        for each in part:
            yield from _parts(each, seen)
    elif hasattr(part, "get_params"):
        yield part
        for name, value in vars(part).items():
            # What was calibrated, as it came: scores that skl2onnx doubles are put right behind it.
            if not (name == "estimator" and hasattr(part, "calibrated_classifiers_")):
                yield from _parts(value, seen)


def _converted_wrongly(estimator: Any) -> Iterator[str]:
    """What skl2onnx never converts rightly, and rows drawn at random may not show (findings/skl2onnx-*.sh)."""
    for part in _parts(estimator):
        kind = type(part).__name__
        # Another one is what a search or a vote made its own from.
        if not any(name.endswith("_") for name in vars(part)):
            continue
        if getattr(part, "method", None) == "isotonic":
            yield f'{kind} of method="isotonic", which answers in steps then: fit it with method="sigmoid"'
        if kind.startswith("KNeighbors") and getattr(part, "weights", None) == "distance":
            yield f'{kind} of weights="distance", which are lost: fit it with weights="uniform"'
        if kind == "LinearDiscriminantAnalysis" and len(getattr(part, "classes_", ())) == 2:
            yield f"{kind} of two classes, whose scores are doubled: fit CalibratedClassifierCV around it"


def _finite(values: Any) -> list[float]:
    found = np.asarray(values)
    if found.dtype.kind not in "iuf":
        return []
    return [float(value) for value in found.reshape(-1)[:_ROWS] if np.isfinite(value)]


def _accepted(estimator: Any, rows: Any) -> Any:
    """The rows that the estimator takes: one that has categories may know of no others."""

    def takes(some: Any) -> bool:
        try:
            estimator.predict(some)
        except Exception:  # noqa: BLE001 - an estimator raises whatever it meets
            return False
        return True

    return rows if takes(rows) else rows[[takes(row[None]) for row in rows]]


def _compare(estimator: Any, model: Path, rows: Any, engine: Any, *, classifies: bool) -> tuple[float, tuple[str, ...]]:
    try:
        session = engine.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        output = session.run(None, {session.get_inputs()[0].name: rows})[-1]
    except Exception as exc:  # the runtime's own kinds
        raise EstimatorError(
            f"skl2onnx makes a model of {type(estimator).__name__} that ONNX Runtime refuses: {_reason(exc)}"
        ) from exc
    if len(output) != len(rows):
        raise EstimatorError(
            f"the model must give an answer a row, got {len(output)} for {len(rows)} rows of "
            f"{type(estimator).__name__}: skl2onnx converts bagging wrongly of what has no predict_proba; bag what has"
        )
    wanted = estimator.predict_proba(rows) if classifies else estimator.predict(rows)
    found, wanted = (np.asarray(values, np.float64).reshape(len(rows), -1) for values in (output, wanted))
    differences = np.abs(found - wanted).max(axis=1)
    off = ~(differences <= 1e-3 * max(1.0, float(np.abs(wanted).max())))
    if off.mean() > _MOST_OFF:
        raise EstimatorError(
            f"the model must give what the estimator gives, got a difference of {differences[off].max():g} on "
            f"{off.sum()} of {len(rows)} rows: a step that skl2onnx converts wrongly, that computes in doubles, or "
            "that draws at random gives other values in float32"
        )
    notes = [f"{off.sum()} of {len(rows)} rows lie so near a limit that float32 answers otherwise"] if off.any() else []
    if classifies:
        other = np.asarray(estimator.classes_)[wanted.argmax(axis=1)] != np.asarray(estimator.predict(rows)).reshape(-1)
        if other.mean() > _MOST_OFF:
            notes.append(
                f"on {other.sum()} of {len(rows)} rows its predict names another class than the likeliest of its "
                "predict_proba: a device answers with the likeliest"
            )
    return float(differences[~off].max()), tuple(notes)
