import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.edge.model_folder import ROOT
from tools import model
from tools.model_folder import as_png

MODELS = ROOT / "edge_assets" / "models"
FOLDERS = sorted(path.parent for path in MODELS.glob("*/model.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_committed_model_works_as_its_folder_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["check", str(folder)]) == 0

    assert "loaded and warm" in capsys.readouterr().out


def test_predicts_requests_and_pictures_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["check", str(MODELS / "iris"), '{"features": [5.1, 3.5, 1.4, 0.2]}']) == 0
    assert "setosa 0.9" in capsys.readouterr().out

    picture = MODELS / "image-classification" / "image.jpg"
    assert model.main(["check", str(MODELS / "image-classification"), str(picture)]) == 0
    assert "notice: random weights" in capsys.readouterr().out


def test_takes_the_folder_that_one_is_in_and_names_its_own_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(MODELS / "iris")
    assert model.main(["check", "."]) == 0

    shutil.copytree(MODELS / "iris", tmp_path / "iris")
    (tmp_path / "iris" / "model.onnx").write_bytes(b"no model")
    monkeypatch.chdir(tmp_path / "iris")
    assert model.main(["check", "."]) == 1
    told = capsys.readouterr().err
    assert told.startswith(".: iris/model.onnx: must load with ONNX Runtime ")
    assert "it is no whole ONNX file: copy it anew, or fetch it (git lfs pull)" in told


@pytest.mark.parametrize("name", ["my_model", "Model", "1-model", "a" * 31])
def test_a_folder_needs_a_name_that_a_stage_can_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    shutil.copytree(MODELS / "iris", tmp_path / name)
    declaration = json.loads((tmp_path / name / "model.json").read_text()) | {"name": name}
    (tmp_path / name / "model.json").write_text(json.dumps(declaration))

    assert model.main(["check", str(tmp_path / name)]) == 1

    assert f"digits and single dashes, at most 30, a letter first, got '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"serving": {"topk": 3}}, "serving must hold known keys, got topk"),
        ({"serving": {"threshold": 2}}, "threshold must be a number from 0 to 1"),
        ({"labels": ["one"]}, "iris: model.json: the output's shape must be (1, 1), one value a label"),
        ({"extras": ["lost.jpg"]}, "lost.jpg: is named in the declaration, but missing"),
    ],
)
def test_says_what_is_wrong_with_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str
) -> None:
    folder = tmp_path / "iris"
    shutil.copytree(MODELS / "iris", folder)
    declaration = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(declaration | changes))

    assert model.main(["check", str(folder)]) == 1

    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "preview", "reference"])
def test_links_in_a_ring_are_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "iris").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "iris")

    assert model.main([command, str(tmp_path / "iris")]) == 1

    assert capsys.readouterr().err.endswith("iris/model.json: cannot be read: Too many levels of symbolic links\n")


def test_a_reference_is_named_in_a_declaration_that_stays_whole_whenever_the_write_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shared = tmp_path / "iris", tmp_path / "iris" / "shared.json"
    shutil.copytree(MODELS / "iris", folder)
    declaration = json.loads((folder / "model.json").read_text())
    del declaration["reference"]
    shared.write_text(before := json.dumps(declaration))
    (folder / "model.json").unlink()
    (folder / "model.json").symlink_to(shared)
    (folder / "reference.json").unlink()

    def full(path: Path, target: Path) -> Path:
        if target.name == "reference.json":
            return real(path, target)
        raise OSError(28, "No space left on device")

    real = Path.replace
    monkeypatch.setattr(Path, "replace", full)
    assert model.main(["reference", str(folder)]) == 1
    assert shared.read_text() == before
    monkeypatch.undo()
    assert model.main(["reference", str(folder)]) == 0

    assert (folder / "model.json").is_symlink()
    assert json.loads(shared.read_text()) == {**declaration, "reference": "reference.json"}
    assert {file.name for file in folder.iterdir()} == {file.name for file in (MODELS / "iris").iterdir()} | {
        "shared.json"
    }


def test_half_a_character_of_a_declaration_is_shown_as_one(tmp_path: Path) -> None:
    folder, page = tmp_path / "iris", tmp_path / "preview.html"
    shutil.copytree(MODELS / "iris", folder)
    declaration = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**declaration, "notice": "half \ud800 here"}))

    assert model.main(["preview", str(folder), "--out", str(page)]) == 0

    assert "half ? here" in page.read_text(encoding="utf-8")


def test_the_narrow_classifier_is_made_the_same_at_every_run(tmp_path: Path) -> None:
    from tools import export_resnet18  # not above: every worker reads this file, and scikit-learn is slow to import

    committed = MODELS / "image-classification"

    assert export_resnet18.main(["--output", str(tmp_path)]) == 0

    assert (tmp_path / "model.onnx").read_bytes() == (committed / "model.onnx").read_bytes()
    assert json.loads((tmp_path / "model.json").read_text()) == json.loads((committed / "model.json").read_text())


def test_training_the_iris_classifier_again_gives_the_same_model(tmp_path: Path) -> None:
    from tools import train_iris

    assert train_iris.main(["--output", str(tmp_path)]) == 0

    assert model.main(["check", str(MODELS / "iris")]) == 0
    size = (tmp_path / "model.onnx").stat().st_size
    assert size == (MODELS / "iris" / "model.onnx").stat().st_size


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 1), (2, 1, 3)])
def test_a_sample_of_one_row_or_column_is_shown_as_it_is(shape: tuple[int, ...]) -> None:
    with Image.open(io.BytesIO(as_png(np.ones(shape, np.float32)))) as shown:
        assert (shown.height, shown.width) == shape[:2]
