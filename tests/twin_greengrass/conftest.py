"""One cloud without AUTH and one with it, each started when the first test asks for it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.twin_greengrass.device import Device, make_device
from tests.twin_greengrass.started_cloud import Cloud, started_cloud

BUCKET = "artifacts"


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started_cloud(tmp_path_factory.mktemp("cloud")) as started:
        s3 = started.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="code/app.zip", Body=b"an artifact")
        yield started


@pytest.fixture
def group(cloud: Cloud) -> str:
    name = f"ring-{uuid.uuid4().hex[:8]}"
    cloud.client("iot").create_thing_group(thingGroupName=name)
    return name


@pytest.fixture
def device(cloud: Cloud, group: str, tmp_path: Path) -> Device:
    return make_device(cloud, tmp_path / "device", group=group)


@pytest.fixture
def component(cloud: Cloud) -> Callable[..., dict[str, Any]]:
    def make(version: str = "1.0.0", *, name: str = "", **changes: Any) -> dict[str, Any]:
        text = recipe(name or f"com.example.{uuid.uuid4().hex[:8]}", version, **changes)
        answer: dict[str, Any] = cloud.client("greengrassv2").create_component_version(inlineRecipe=text)
        return answer

    return make


def recipe(name: str, version: str, **changes: Any) -> str:
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": {"run": "echo {artifacts:decompressedPath}/app"},
        "Artifacts": [{"URI": f"s3://{BUCKET}/code/app.zip", "Unarchive": "ZIP"}],
    }
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentConfiguration": {"DefaultConfiguration": {"uri": "keep"}},
        "Manifests": [manifest],
    }
    return json.dumps({**document, **changes})


@pytest.fixture
def recipe_text() -> Callable[..., str]:
    return recipe


@pytest.fixture
def group_arn(cloud: Cloud, group: str) -> str:
    return str(cloud.client("iot").describe_thing_group(thingGroupName=group)["thingGroupArn"])
