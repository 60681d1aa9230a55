"""V1 functions: what is declared, archived and allowed."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from config.handler import Handler
from config.loader import ConfigurationError, load_stage
from edge_constructs.edge_assets import MissingAssetError
from edge_constructs.handler_assets import FUNCTIONS, HANDLER_RECIPE, dependencies_archive, handler_archive
from edge_constructs.handler_component import HandlerDeclarationError, check_access, check_function, recipe_values
from edge_constructs.module_closure import module_closure
from edge_constructs.recipe import fill_recipe
from edge_constructs.reproducible_zip import write_zip

DIGITS = FUNCTIONS / "digits"


def handler(**changes: Any) -> Handler:
    values: dict[str, Any] = {"name": "d", "folder": "digits", "handler": "gg_ml_predict.function_handler", **changes}
    return Handler(**values)


def recipe(**changes: Any) -> dict[str, Any]:
    values = recipe_values("c", handler(**changes), "r")
    filled = fill_recipe(HANDLER_RECIPE, {**values, "VERSION": "1.0.0", "ARTIFACT_URI": "a", "DEPENDENCIES_URI": "d"})
    content: dict[str, Any] = json.loads(filled)
    return content


def test_the_archive_is_reproducible_and_complete(tmp_path: Path) -> None:
    first = handler_archive("d", DIGITS, tmp_path / "a")
    second = handler_archive("d", DIGITS, tmp_path / "b")
    assert first.sha256 == second.sha256

    with zipfile.ZipFile(first.file) as archive:
        archive.extractall(tmp_path / "device")

    # All that the component imports on the device came along.
    code = "import v1_handler.__main__, v1_handler.child, edge_inference.greengrass_ipc"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "device", capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stderr == ""
    assert not (tmp_path / "device" / "edge_inference" / "service.py").exists()
    assert (tmp_path / "device" / "function" / "model.onnx").read_bytes() == (DIGITS / "model.onnx").read_bytes()


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "a.py").write_text(f"import os\nfrom {tmp_path.name} import b\n")

    with pytest.raises(ValueError, match="must have a module b"):
        module_closure(tmp_path, ["a"])


def test_a_function_without_a_lock_has_no_packages(tmp_path: Path) -> None:
    archive = dependencies_archive("d", DIGITS, "3.11", "x86_64", tmp_path)

    with zipfile.ZipFile(archive.file) as members:
        assert members.namelist() == ["requirements.lock"]


def test_packages_must_be_bundled_from_the_functions_lock(tmp_path: Path) -> None:
    function, bundles = tmp_path / "f", tmp_path / "bundles"
    function.mkdir()
    (function / "requirements.lock").write_text("a==1 --hash=sha256:00\n")
    made = bundles / "f-cp311-x86_64.zip"

    for lock in (None, b"a==2"):
        if lock:
            write_zip(made, {"requirements.lock": lock})
        with pytest.raises(MissingAssetError, match=r"packages of the function f .* run make setup"):
            dependencies_archive("d", function, "3.11", "x86_64", tmp_path / "out", bundles)
    digest = write_zip(made, {"requirements.lock": function / "requirements.lock", "dependencies/a.py": b""})

    for _ in range(2):  # a second synth finds the file of the first
        archive = dependencies_archive("d", function, "3.11", "x86_64", tmp_path / "out", bundles)
    assert archive.sha256 == digest


@pytest.mark.parametrize("changes", [{"folder": "nothing"}, {"handler": "other.function"}])
def test_a_function_that_is_not_there_is_named(changes: dict[str, str]) -> None:
    declared = handler(**changes)

    with pytest.raises(
        HandlerDeclarationError, match=rf"handlers\.d: {declared.handler} must be in .*{declared.folder}"
    ):
        check_function(declared, FUNCTIONS / declared.folder)


def test_topics_must_be_in_the_access_control() -> None:
    check_access(recipe(subscribe=("a",), publish=("b",)))
    for key in ("subscribe", "publish"):
        broken = recipe(subscribe=("a",), publish=("b",))
        broken["ComponentConfiguration"]["DefaultConfiguration"][key].append("other")

        with pytest.raises(HandlerDeclarationError, match=f"on each topic of {key}, not on other"):
            check_access(broken)


def test_mistakes_in_a_declaration_are_reported_at_once(tmp_path: Path) -> None:
    text = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n' + (
        '[[handlers]]\nname = "a"\nfolder = "f"\nhandler = "nodot"\nsubscribe = ["a/+", "b/#"]\ntimeout_s = 0\n'
        'environment = { "1X" = "y" }\n'
    )
    (tmp_path / "lab.toml").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", tmp_path)

    assert len(str(caught.value).splitlines()) == 5
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n'
        + '[[handlers]]\nname = "a"\nfolder = "f"\nhandler = "m.f"\n' * 2
    )
    with pytest.raises(ConfigurationError, match="each handler may be listed once, twice there: a"):
        load_stage("lab", tmp_path)
