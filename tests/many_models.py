"""Any number of small models: copies of the iris classifier under names of their own."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from config.places import MODELS


def names(count: int) -> list[str]:
    """The names of so many models."""
    return [f"flower-{number:02}" for number in range(1, count + 1)]


def write_models(folder: Path, models: Sequence[str]) -> None:
    """Write models' folders; the files differ, so that each model is an artifact of its own.

    Args:
        folder: Gets a folder a model.
        models: Their names.
    """
    declared = json.loads((MODELS / "iris" / "model.json").read_text(encoding="utf-8"))
    for name in models:
        shutil.copytree(MODELS / "iris", folder / name)
        content = {**declared, "name": name, "description": f"The iris classifier as {name}"}
        (folder / name / "model.json").write_text(json.dumps(content), encoding="utf-8")


def stage_text(text: str, models: Sequence[str], nucleus: str = "classic") -> str:
    """The twin's stage with other models, and without what takes time.

    Args:
        text: Its file.
        models: Their names.
        nucleus: `fleet.nucleus`.
    """
    head = text.partition("[[models]]\n")[0]
    rest = text.partition("[runtime]")[2].partition("[observability.models.")[0]
    tables = "".join(f'[[models]]\nfolder = "{name}"\n\n' for name in models)
    return f'{head}{tables}[fleet]\nnucleus = "{nucleus}"\n\n[runtime]{rest}'
