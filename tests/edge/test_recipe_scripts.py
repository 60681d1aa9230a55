"""The scripts of the recipes as a device runs them, on nucleus lite and on the classic nucleus."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.edge.lite_script import lite_script
from tests.edge.test_recipes import FILLINGS, filled
from twin.core_device.components.process import interpolate, recipe_variables
from twin.core_device.files import Layout

ROOT = "/var/lib/greengrass"
STEPS = [(kind, phase) for kind in FILLINGS for phase in filled(kind)["Manifests"][0]["Lifecycle"]]


def classic_script(recipe: dict[str, Any], phase: str) -> str:
    variables = recipe_variables(Layout(Path(ROOT)), recipe["ComponentName"], recipe["ComponentVersion"], "thing-1")
    return interpolate(recipe["Manifests"][0]["Lifecycle"][phase]["Script"], variables, lambda _: "")


@pytest.mark.parametrize(("kind", "phase"), STEPS)
def test_a_script_is_whole_on_nucleus_lite_and_means_the_same_on_the_classic_nucleus(kind: str, phase: str) -> None:
    recipe = filled(kind)

    script, whole = lite_script(recipe, phase, ROOT, "thing-1")

    assert whole, script
    assert "{" not in script
    syntax = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, timeout=60, check=False)
    assert (syntax.returncode, syntax.stderr) == (0, "")
    # One of them ends a path with a slash, the other one does not: to the file system that is the same.
    assert script.removeprefix("#!/bin/sh\n").replace("//", "/") == classic_script(recipe, phase)


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("echo a; echo ${HOME}; echo b", "echo a; echo $"),
        ("f() { true; }; f", "f() "),
        ("ls {other.Component:artifacts:path}/x", "ls "),
        ("ls {artifacts:nothing}", "ls "),
        ("echo {work:path", "echo "),
    ],
)
def test_what_the_recipe_runner_leaves_of_other_scripts(script: str, left: str) -> None:
    recipe = filled("inference")
    recipe["Manifests"][0]["Lifecycle"]["run"]["Script"] = script

    assert lite_script(recipe, "run", ROOT, "thing-1") == (f"#!/bin/sh\n{left}", False)


def test_the_model_components_script_writes_its_pointer_where_the_root_has_a_space(tmp_path: Path) -> None:
    root = tmp_path / "green grass"
    recipe = filled("models")
    work = root / "work" / recipe["ComponentName"]
    work.mkdir(parents=True)

    script, _ = lite_script(recipe, "run", str(root), "thing-1")
    subprocess.run(["sh"], input=script, text=True, timeout=30, check=True)

    package = (work / "current").read_text().strip()
    assert (
        Path(package) == root / "packages/artifacts-unarchived" / recipe["ComponentName"] / "1.999999.999999" / "Digits"
    )
