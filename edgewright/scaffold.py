"""Makes a small app of one's own: `edgewright init DIR`."""

from __future__ import annotations

import json
import shlex
import shutil
import string
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from config.loader import DEFAULT_STAGE
from config.model import Model
from config.places import ASSETS, PACKAGE
from config.stage import Stage
from edge_constructs.model_source import ModelDeclarationError, ModelSource

_TEMPLATES = Path(__file__).parent / "template"
#: File of the app to the template that it is made of.
FILES = {
    "app.py": "app.py",
    "test_app.py": "test_app.py",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "requirements.txt": "requirements.txt",
    f"config/{DEFAULT_STAGE}.toml": "twin.toml",
    "config/{stage}.toml": "stage.toml",
}
#: As this package has them: the versions of CDK's command line and its clients fit the rest.
_COPIES = ("package.json", "package-lock.json")
_CDK_JSON = "cdk.json"
#: How a model is asked, by its task, where it brings no samples.
_SUBJECTS = {
    "tabular-classification": "--features '[{numbers}]'",
    "tensors": "--inputs '{{…}}'",
}
_MODELS = "models"


class NewAppError(ValueError):
    """The app cannot be made; the text says why and what to do."""


def installed_version() -> str:
    """The version of this package."""
    try:
        return version("edgewright")
    except PackageNotFoundError:  # a checkout
        settings = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
        return str(settings["project"]["version"])


def shipped_models() -> list[str]:
    """Names of the models that come with this package."""
    return sorted(path.parent.name for path in (ASSETS / _MODELS).glob("*/model.json"))


def make(folder: Path, stage: str, model: str) -> Iterator[str]:
    """Make an app.

    Args:
        folder: Becomes the app; new, or empty.
        stage: The stage in AWS; the twin's is made anyway.
        model: Folder of a model, or the name of one that comes with this package.

    Yields:
        Lines for people.

    Raises:
        NewAppError: The folder is not empty or cannot be written, the stage's name breaks a rule, or the model's folder
            cannot be used; then nothing was made.
    """
    _check_stage(stage)
    source, origin = _model(model)
    here, folder = Path.cwd(), folder.absolute()
    if not folder.name.isprintable():
        raise NewAppError(f"DIR must have a name that can be printed, got {folder.name!r}")
    _check_empty(folder)
    values = {
        "name": folder.name,
        "stage": stage,
        "model": source.name,
        "version": installed_version(),
        "subject": _subject(source),
    }
    new = not folder.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, and moved there whole: what is cut short leaves nothing that looks like an app.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
            _write(Path(made) / "app", values, source, origin)
            if not new:
                folder.rmdir()
            (Path(made) / "app").rename(folder)
    except OSError as exc:
        fix = "name a folder that you may write"
        raise NewAppError(f"DIR must be a folder that can be made, got {folder}: {exc.strerror or exc}; {fix}") from exc
    yield f"made {folder}: {source.name} on the stages {' and '.join(dict.fromkeys((DEFAULT_STAGE, stage)))}"
    yield f"next: cd {shlex.quote(_shown(folder, here))} && edgewright setup && python -m pytest; then README.md"


def _check_stage(name: str) -> None:
    """A stage's name must keep the stage's own rules."""
    try:
        Stage.model_validate({"name": name, "region": "us-east-1", "models": [{"folder": "any"}]})
    except ValidationError as exc:
        rule = exc.errors()[0]["msg"]
        fix = "lower-case letters, digits and single dashes, at most 12, a letter first, such as dev"
        raise NewAppError(f"--stage must be a stage's name, got {name!r} ({rule}): {fix}") from exc
    shorter, longer = sorted((name, DEFAULT_STAGE), key=len)
    if longer.startswith(f"{shorter}-"):
        raise NewAppError(
            f"--stage must not begin with {DEFAULT_STAGE} and a hyphen, got {name!r}: their names would meet"
        )


def _model(text: str) -> tuple[ModelSource, Path]:
    known = shipped_models()
    folder = ASSETS / _MODELS / text if text in known else Path(text).absolute()
    if not folder.is_dir():
        raise NewAppError(
            f"--model must be the folder of a model, or one of {', '.join(known)}, got {text}: "
            "edgewright model init makes a folder of an ONNX file"
        )
    try:
        Model(folder=folder.name)
        return ModelSource.read(folder), folder
    except ValidationError as exc:
        rule = "lower-case letters, digits and single dashes, at most 30, a letter first"
        raise NewAppError(f"--model must be a folder named by {rule}, got {folder.name!r}") from exc
    except (ModelDeclarationError, OSError) as exc:
        raise NewAppError(f"--model {text}: {exc}") from exc


def _check_empty(folder: Path) -> None:
    try:
        found = sorted(each.name for each in folder.iterdir())[:3]
    except FileNotFoundError:
        return
    except OSError as exc:
        raise NewAppError(f"DIR must be a new or empty folder, got {folder}: {exc.strerror}; name another one") from exc
    if found:
        raise NewAppError(f"DIR must be a new or empty folder, got {folder} with {', '.join(found)}: name another one")


def _subject(source: ModelSource) -> str:
    declared = source.declaration
    if declared.get("samples"):
        return "--index 0"
    numbers = ", ".join("1.0" for _ in declared.get("features", ()))
    return _SUBJECTS.get(declared.get("task", ""), "--image FILE").format(numbers=numbers)


def _write(folder: Path, values: Mapping[str, str], source: ModelSource, origin: Path) -> None:
    for place, template in FILES.items():
        file = folder / place.format(**values)
        file.parent.mkdir(parents=True, exist_ok=True)
        # The twin's own stage comes first, and one of that name is it.
        if not file.exists():
            text = (_TEMPLATES / template).read_text(encoding="utf-8")
            file.write_text(string.Template(text).substitute(values), encoding="utf-8")
    for name in _COPIES:
        shutil.copyfile(PACKAGE / name, folder / name)
    settings = json.loads((PACKAGE / _CDK_JSON).read_text(encoding="utf-8"))
    settings["app"] = "python app.py"
    (folder / _CDK_JSON).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for name, file in {"model.json": origin / "model.json", **source.files}.items():
        target = folder / _MODELS / source.name / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _shown(folder: Path, here: Path) -> str:
    """How the shell gets there; where it is in the folder that has made way for the app, by the whole path."""
    return str(folder.relative_to(here)) if folder != here and folder.is_relative_to(here) else str(folder)
