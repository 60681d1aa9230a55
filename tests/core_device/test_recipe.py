"""Recipes, their variables and version ranges."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from twin.core_device.components.process import interpolate, recipe_variables
from twin.core_device.components.recipe import Recipe, parse_recipe, satisfies
from twin.core_device.dialect import CLASSIC
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout

PLATFORM = {"os": "linux", "architecture": "aarch64", "runtime": "aws_nucleus_lite"}


def document(*manifests: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"ComponentName": "com.x", "ComponentVersion": "1.0.0", "Manifests": list(manifests), **changes}


def manifest(run: str, **platform: str) -> dict[str, Any]:
    return {"Platform": {"os": "linux", "runtime": "*", **platform}, "Lifecycle": {"run": run}}


def run_script(recipe: Recipe) -> str:
    return recipe.steps["run"].script


def test_takes_the_first_manifest_that_fits() -> None:
    recipe = parse_recipe(
        document(
            manifest("intel", architecture="amd64"),
            {"Platform": {"os": "linux"}, "Lifecycle": {"run": "no runtime"}},
            manifest("arm", architecture="aarch64"),
            manifest("any"),
        ),
        PLATFORM,
    )

    assert run_script(recipe) == "arm"


def test_no_fitting_manifest_names_what_is_offered() -> None:
    with pytest.raises(DeploymentError, match=r"com.x 1.0.0 has no manifest .*windows"):
        parse_recipe(document(manifest("x", os="windows")), PLATFORM)


def test_reads_steps_dependencies_and_artifacts() -> None:
    step = {"Script": "go", "Timeout": "7", "Setenv": {"A": "1"}, "RequiresPrivilege": False}
    lifecycle = {"Setenv": {"A": "0", "B": 2}, "install": step, "shutdown": "bye"}
    artifact = {"Uri": "s3://b/k/model.zip", "Unarchive": "ZIP", "Digest": "abc", "Algorithm": "SHA-256"}
    recipe = parse_recipe(
        document(
            {"Platform": {"os": "*", "runtime": "*"}, "Lifecycle": lifecycle, "Artifacts": [artifact]},
            ComponentDependencies={"a": {"VersionRequirement": ">=1.0.0 <2.0.0", "DependencyType": "SOFT"}, "b": {}},
        ),
        PLATFORM,
        CLASSIC,
    )

    assert recipe.steps["install"].timeout_s == 7
    assert recipe.steps["install"].environment == {"A": "1", "B": "2"}
    assert [(d.name, d.hard) for d in recipe.dependencies] == [("a", False), ("b", True)]
    assert (recipe.artifacts[0].file_name, recipe.artifacts[0].unzip) == ("model.zip", True)
    assert recipe.steps["shutdown"].script == "bye"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        document(manifest("x"), ComponentName="../../etc"),
        document(manifest("x"), ComponentName=".."),
        document(manifest("x"), ComponentVersion="../1"),
        document(manifest("x"), ComponentConfiguration={"DefaultConfiguration": [1]}),
        document(manifest("x"), ComponentDependencies={"../x": {}}),
        document({**manifest("x"), "Artifacts": [{"Uri": "s3://bucket/.."}]}),
        document({**manifest("x"), "Artifacts": [{"Uri": "s3://b/k", "Algorithm": "MD5"}]}),
        document({**manifest("x"), "Lifecycle": {"run": 5}}),
        document({**manifest("x"), "Lifecycle": {"run": {"Timeout": 5}}}),
    ],
)
def test_a_malformed_recipe_is_a_deployment_error(broken: Any) -> None:
    with pytest.raises(DeploymentError, match="malformed"):
        parse_recipe(broken, PLATFORM)


def test_variables_are_replaced_and_other_braces_stay() -> None:
    variables = recipe_variables(Layout(Path("/root")), "com.x", "1.0.0", "thing-1")
    configuration = {("a", "b"): {"c": [1]}, ("text",): "hello"}

    text = interpolate(
        "{artifacts:path}/x {artifacts:decompressedPath}/z {work:path} {kernel:rootPath} {iot:thingName} "
        "{configuration:/a/b} {configuration:/text} ${HOME} { echo; } {}",
        variables,
        lambda path: configuration[path],
    )

    assert text == (
        "/root/packages/artifacts/com.x/1.0.0/x /root/packages/artifacts-unarchived/com.x/1.0.0/z /root/work/com.x "
        '/root thing-1 {"c":[1]} hello ${HOME} { echo; } {}'
    )


@pytest.mark.parametrize("variable", ["{artifacts:pat}", "{configuration:/missing}", "{kernel:x}"])
def test_an_unknown_variable_is_an_error(variable: str) -> None:
    nothing: dict[tuple[str, ...], str] = {}

    with pytest.raises(DeploymentError, match=variable.strip("{}")):
        interpolate(variable, {}, lambda path: nothing[path])


@pytest.mark.parametrize(
    ("version", "requirement", "expected"),
    [
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "==1.2.3", True),
        ("1.2.3", ">=1.0.0 <2.0.0", True),
        ("1.2.3", ">= 1.0.0, < 1.2.3", False),
        ("3.0.0", ">=1.0.0 <2.0.0", False),
        ("1.10.0", ">1.9.0", True),
        ("2.0.0-rc.1", ">=2.0.0", False),
        ("2.0.0-rc.2", ">2.0.0-rc.1", True),
        ("1.2.3", "^1.0.0", False),
        ("1.2.3", "", False),
        ("x", "1.0.0", False),
    ],
)
def test_version_ranges(version: str, requirement: str, expected: bool) -> None:
    assert satisfies(version, requirement) is expected


@pytest.mark.parametrize(
    ("permission", "mode"),
    [
        (None, None),
        ({}, 0o440),
        ({"Read": "ALL"}, 0o444),
        ({"Read": "OWNER", "Execute": "OWNER"}, 0o550),
        ({"Read": "ALL", "Execute": "OWNER"}, 0o554),
        ({"Read": "NONE", "Execute": "NONE"}, 0o400),
        ({"Read": "NONE", "Execute": "ALL"}, 0o555),
    ],
)
def test_an_artifacts_permission_becomes_the_rights_of_its_files(
    permission: dict[str, str] | None, mode: int | None
) -> None:
    artifact = {"Uri": "s3://b/k/a.zip", **({} if permission is None else {"Permission": permission})}

    recipe = parse_recipe(document({**manifest("x"), "Artifacts": [artifact]}), PLATFORM)

    assert recipe.artifacts[0].mode == mode


def test_lite_gives_values_as_text_for_double_quotes() -> None:
    values = {"text": 'say "$HOME" `id` \\', "whole": 3, "real": 1.0, "list": ["a", 1]}
    script = " ".join(f'"{{configuration:/{key}}}"' for key in values)

    def filled(*, escapes: bool) -> str:
        return interpolate(script, {}, lambda path: values[path[0]], escapes=escapes)

    shown = subprocess.run(
        ["sh", "-c", f"printf '%s|' {filled(escapes=True)}"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == 'say "$HOME" `id` \\|3|1.0000000000000000|["a",1]|'
    assert filled(escapes=False) == '"say "$HOME" `id` \\" "3" "1.0" "["a",1]"'
