"""Recipe templates and their placeholders; a version is a function of the content."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_constructs.component_library import LIMIT_BYTES, component_version, content_version, fill_recipe


def template(folder: Path, content: object) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_fills_texts_keys_and_whole_values(tmp_path: Path) -> None:
    path = template(tmp_path, {"@NAME@:policy": ["run @NAME@ @VERSION@", "@TOPICS@"], "count": 3})

    recipe = fill_recipe(path, {"NAME": "Inference", "VERSION": "1.2.3", "TOPICS": ["a", "b"]})

    assert json.loads(recipe) == {"Inference:policy": ["run Inference 1.2.3", ["a", "b"]], "count": 3}


def test_leaves_greengrass_variables_alone(tmp_path: Path) -> None:
    path = template(tmp_path, {"Script": "{artifacts:decompressedPath}/user@host @"})

    assert json.loads(fill_recipe(path, {}))["Script"] == "{artifacts:decompressedPath}/user@host @"


def test_names_a_placeholder_without_a_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe\.json: each placeholder must have a value, none for @VERSION@"):
        fill_recipe(template(tmp_path, {"a": "@VERSION@"}), {})


def test_names_a_value_without_a_placeholder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each value must have a placeholder, none for TOPIC"):
        fill_recipe(template(tmp_path, {}), {"TOPIC": "x"})


def test_refuses_a_recipe_that_no_device_takes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"must fit into {LIMIT_BYTES} bytes, got 8\d\d\d"):
        fill_recipe(template(tmp_path, {"a": "x" * LIMIT_BYTES}), {})


def test_refuses_a_template_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("{")

    with pytest.raises(ValueError, match=r"recipe\.json: a recipe template must be JSON: .*line 1"):
        fill_recipe(path, {})


def test_version_follows_recipe_values_and_digests(tmp_path: Path) -> None:
    path = template(tmp_path, {"v": "@VERSION@", "u": "@ARTIFACT_URI@", "t": "@TOPIC@"})
    version = component_version(path, {"TOPIC": "a"}, ["00"])

    assert version == component_version(path, {"TOPIC": "a"}, ["00"])
    assert version != component_version(path, {"TOPIC": "b"}, ["00"])
    assert version != component_version(path, {"TOPIC": "a"}, ["01"])
    template(tmp_path, {"v": "@VERSION@", "u": "@ARTIFACT_URI@", "t": "@TOPIC@", "more": 1})
    assert version != component_version(path, {"TOPIC": "a"}, ["00"])


@pytest.mark.parametrize(
    ("nucleus", "limit", "fix"),
    [
        ("*", 8192, "use fewer models or shorter names, set fleet.nucleus to classic, or split the stage"),
        ("aws_nucleus_classic", 16384, "use fewer models or shorter names, split the stage"),
    ],
)
def test_a_recipe_that_is_too_long_for_its_nucleus_is_refused_with_limit_size_and_fix(
    tmp_path: Path, nucleus: str, limit: int, fix: str
) -> None:
    path = template(tmp_path, {"runtime": "@NUCLEUS@", "text": "@TEXT@"})
    spare = len(fill_recipe(path, {"NUCLEUS": nucleus, "TEXT": ""}))

    assert fill_recipe(path, {"NUCLEUS": nucleus, "TEXT": "x" * (limit - spare)})
    with pytest.raises(ValueError, match=rf"a recipe must fit into {limit} bytes, got {limit + 1}: {fix}"):
        fill_recipe(path, {"NUCLEUS": nucleus, "TEXT": "x" * (limit - spare + 1)})


@given(st.lists(st.text(), min_size=1))
def test_is_a_version_that_recipes_accept(parts: list[str]) -> None:
    version = content_version(*parts)

    assert re.fullmatch(r"1\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", version)
    assert version == content_version(*parts)


def test_stays_the_same_from_release_to_release() -> None:
    assert content_version("recipe", b"digest") == "1.511463.431768"


@pytest.mark.parametrize("other", [("ab", "c"), ("abc",), ("c", "ab"), ("a", "bc", "")])
def test_tells_other_parts_apart(other: tuple[str, ...]) -> None:
    assert content_version(*other) != content_version("a", "bc")


def test_refuses_no_content() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        content_version()
