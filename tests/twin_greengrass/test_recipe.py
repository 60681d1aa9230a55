"""Recipes: what CreateComponentVersion makes of them, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.cloud.aws.protocol import InvalidRequestError
from twin.cloud.greengrass.recipe import artifacts, canonical, name_problem, read_recipe
from twin.core_device.components.recipe import is_component_name

BASE: dict[str, Any] = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.example.App",
    "ComponentVersion": "1.0.0",
    "Manifests": [{"Platform": {"os": "linux"}}],
}


def fields(source: dict[str, Any] | bytes) -> set[str]:
    with pytest.raises(InvalidRequestError) as error:
        read_recipe(source if isinstance(source, bytes) else json.dumps(source).encode())
    return {entry["name"] for entry in error.value.details["fields"]}


def test_keys_get_their_case_and_values_stay() -> None:
    written = {
        "recipeformatversion": "2020-01-25",
        "componentName": "a",
        "componentversion": "1.0.0",
        "componentDependencies": {"artifacts": {"versionRequirement": "^1.0.0", "dependencytype": "SOFT"}},
        "componentConfiguration": {"defaultconfiguration": {"uri": "x", "Name": {"digest": 1}}},
        "manifests": [{"lifecycle": {"install": "x"}, "artifacts": [{"URI": "s3://bucket/k", "unarchive": "ZIP"}]}],
    }

    recipe = read_recipe(json.dumps(written).encode())

    assert recipe == {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "a",
        "ComponentVersion": "1.0.0",
        "ComponentType": "aws.greengrass.generic",
        "ComponentDependencies": {"artifacts": {"VersionRequirement": "^1.0.0", "DependencyType": "SOFT"}},
        "ComponentConfiguration": {"DefaultConfiguration": {"uri": "x", "Name": {"digest": 1}}},
        "Manifests": [{"Lifecycle": {"install": "x"}, "Artifacts": [{"Uri": "s3://bucket/k", "Unarchive": "ZIP"}]}],
    }


def test_every_manifest_gets_a_list_of_artifacts() -> None:
    assert artifacts(read_recipe(json.dumps(BASE).encode())) == []


def test_yaml_is_read_as_json_is() -> None:
    assert read_recipe(yaml.safe_dump(BASE).encode()) == read_recipe(json.dumps(BASE).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*BASE, "ComponentDependencies", "ComponentConfiguration"]) | st.text(max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, values, max_size=8))
def test_canonical_form_is_stable(document: dict[str, Any]) -> None:
    once = canonical(document)

    assert canonical(once) == once


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, values, max_size=8))
def test_any_document_is_a_recipe_or_a_list_of_mistakes(document: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert artifacts(read_recipe(json.dumps({**BASE, **document}).encode())) == []


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_reason(source: bytes) -> None:
    assert fields(source)


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {
        **BASE,
        "RecipeFormatVersion": "1",
        "ComponentName": "no spaces",
        "ComponentVersion": 1,
        "ComponentDependencies": {"a": {"VersionRequirement": "newest"}, "b": {"DependencyType": "MAYBE"}, "c": 5},
        "Manifests": [
            {"Lifecycle": "run", "Artifacts": [{"Uri": "https://x"}, {"Uri": "s3://bkt/k", "Unarchive": "TAR"}]}
        ],
    }

    assert fields(wrong) == {
        "RecipeFormatVersion",
        "ComponentName",
        "ComponentVersion",
        "ComponentDependencies.a.VersionRequirement",
        "ComponentDependencies.b.DependencyType",
        "ComponentDependencies.c",
        "Manifests[0].Lifecycle",
        "Manifests[0].Artifacts[0].Uri",
        "Manifests[0].Artifacts[1].Unarchive",
    }


@pytest.mark.parametrize("name", [".", "..", "...", "", "a/b", "a" * 129])
def test_a_name_that_devices_cannot_make_a_folder_of_is_refused(name: str) -> None:
    assert fields({**BASE, "ComponentName": name}) == {"ComponentName"}
    requirement = {"VersionRequirement": ">=1.0.0"}
    assert fields({**BASE, "ComponentDependencies": {name: requirement}}) == {f"ComponentDependencies.{name}"}
    assert "dots alone" in name_problem(name)
    assert not is_component_name(name)


@pytest.mark.parametrize(
    "uris",
    [
        ["s3://bkt/.."],
        ["s3://bkt/x/."],
        ["s3://bkt/x/"],
        ["greengrass:.."],
        ["s3://bkt/x/a.zip", "s3://bkt/y/a.zip"],
        ["s3://bkt/a.zip", "greengrass:a.zip"],
    ],
)
def test_artifacts_that_devices_cannot_keep_as_files_of_their_own_are_refused(uris: list[str]) -> None:
    manifest = {"Lifecycle": {}, "Artifacts": [{"Uri": uri} for uri in uris]}

    assert fields({**BASE, "Manifests": [manifest]}) == {f"Manifests[0].Artifacts[{len(uris) - 1}].Uri"}
    # Each manifest is of other devices.
    single = [{"Lifecycle": {}, "Artifacts": [{"Uri": "s3://bkt/x/..a"}]}] * 2
    assert len(artifacts(read_recipe(json.dumps({**BASE, "Manifests": single}).encode()))) == 2


@pytest.mark.parametrize("name", ["a", "..a", "com.plant.Inference-2_x", "a" * 128])
def test_other_names_are_taken_by_cloud_and_device_alike(name: str) -> None:
    assert name_problem(name) == ""
    assert is_component_name(name)


@pytest.mark.parametrize("manifests", [None, [], {}, ["x"]])
def test_a_recipe_needs_a_manifest(manifests: Any) -> None:
    assert fields({**BASE, "Manifests": manifests}) <= {"Manifests", "Manifests[0]"}


@pytest.mark.parametrize(
    "source",
    [
        b"a: &a [x, x]\nb: [*a, *a]",
        b"[" * 9000,
        b"{" + b'"a":{' * 2500,
        b"- " * 8000,
        b"\xff\xfe",
        b"x" * 17_000,
        b"!!python/object:os.system {}",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b"".join(b" " * level + b"a:\n" for level in range(70)),
    ],
)
def test_hostile_recipes_are_refused(source: bytes) -> None:
    assert fields(source) == {"inlineRecipe"}


def test_open_brackets_take_no_time_in_the_cloud_whose_libraries_allow_deep_recursion() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)  # as jsonata does when it is imported
    try:
        started = time.process_time()
        assert fields(b"[" * 9000) == {"inlineRecipe"}
        assert time.process_time() - started < 2
    finally:
        sys.setrecursionlimit(limit)
