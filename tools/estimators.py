"""Makes an ONNX file of a scikit-learn estimator: `python -m tools.model init --from estimator.skops`.

A pickle runs whatever it holds when it is read. A skops file names the types that it is made of, and only those that
skops knows as harmless are loaded here; a user may name more, of a file of one's own.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
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
_ROWS = 64
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
    """

    model: Path
    features: tuple[str, ...]
    labels: tuple[str, ...]
    difference: float


def convert(file: Path, folder: Path, engine: Any, trusted: Sequence[str] = ()) -> Estimator:
    """Convert an estimator, and compare both on rows drawn at random.

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
            f"{file.name} must hold a fitted estimator, got {type(estimator).__name__}: call fit first"
        )
    from skl2onnx import to_onnx

    classifies = hasattr(estimator, "classes_") and hasattr(estimator, "predict_proba")
    rows = np.random.default_rng(0).normal(size=(_ROWS, count)).astype(np.float32)
    options = {"zipmap": False} if classifies else None
    try:
        converted = to_onnx(estimator, rows[:1], options=options, target_opset=_OPSET)
    except Exception as exc:  # a converter raises whatever it meets
        reason = str(exc).strip().splitlines()[0][:200]
        text = f"skl2onnx cannot convert {type(estimator).__name__}: {reason}"
        raise EstimatorError(f"{text}; every step must be one that it knows") from exc
    target = folder / f"{file.stem}.onnx"
    target.write_bytes(converted.SerializeToString())
    return Estimator(
        target,
        tuple(str(name) for name in getattr(estimator, "feature_names_in_", ())),
        tuple(str(name) for name in estimator.classes_) if classifies else (),
        _difference(estimator, target, rows, engine, classifies=classifies),
    )


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


def _difference(estimator: Any, model: Path, rows: Any, engine: Any, *, classifies: bool) -> float:
    session = engine.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = session.run(None, {name: rows})[-1]
    wanted = estimator.predict_proba(rows) if classifies else estimator.predict(rows)
    both = [np.asarray(values, np.float64).reshape(len(rows), -1) for values in (found, wanted)]
    difference = float(np.abs(both[0] - both[1]).max())
    scale = max(1.0, float(np.abs(wanted).max()))
    if not difference <= 1e-3 * scale:
        raise EstimatorError(
            f"the model must give what the estimator gives, got a difference of {difference:g}: an estimator that "
            "computes in doubles, or draws at random, loses that in float32"
        )
    return difference
