"""A stage changes and goes: a model comes and is taken out, kept resources come back. In this order, on one twin."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.app_copy import copy_app
from tests.many_models import write_models
from tools.offline_deploy import CdkError, OfflineDeploy, run_cdk
from twin import inventory, lifecycle
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the app whose stage `twin` has two models and nothing else that takes time."""
    app = copy_app(tmp_path_factory.mktemp("life") / "app")
    file = app / "config" / "twin.toml"
    head, _, rest = file.read_text().partition("[[models]]\n")
    sections = rest.partition("[runtime]")[2].partition("[observability.models.")[0]
    models = [f'[[models]]\nfolder = "{name}"\ncompiler = "none"\n' for name in ("digits", "iris")]
    file.write_text(f"{head}{''.join(models)}\n[runtime]{sections}")
    return app


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("state") / "twin"
    try:
        yield lifecycle.start(home, auth=True)
    finally:
        lifecycle.stop(home)


@pytest.fixture(scope="module")
def stage(app: Path, twin: TwinState, tmp_path_factory: pytest.TempPathFactory) -> OfflineDeploy:
    """The stage, synthesised, in a bootstrapped account."""
    deploy = OfflineDeploy(environment=twin.environment(), out=tmp_path_factory.mktemp("out"), app=app)
    deploy.synth()
    deploy.bootstrap()
    return deploy


def left(state: TwinState) -> list[str]:
    """Everything in the account but the bootstrap."""
    found = inventory.take(state)
    return [f"{kind} {name}" for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names]


def stacks(stage: OfflineDeploy) -> dict[str, str]:
    """Name to status of every stack but the bootstrap's."""
    found = stage.client("cloudformation").describe_stacks()["Stacks"]
    return {each["StackName"]: each["StackStatus"] for each in found if not each["StackName"].startswith("CDK")}


def contents(stage: OfflineDeploy) -> set[str]:
    """What a model brings into the account, by name: resources of stacks, component versions, jobs."""
    cloudformation, greengrass = stage.client("cloudformation"), stage.client("greengrassv2")
    found = {
        f"{name} {each['LogicalResourceId']}"
        for name in stacks(stage)
        for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
        for each in page["StackResourceSummaries"]
    }
    found |= {
        version["arn"]
        for component in greengrass.list_components(scope="PRIVATE")["components"]
        for version in greengrass.list_component_versions(arn=component["arn"])["componentVersions"]
        if ".model." in version["arn"]
    }
    return found | {
        job["CompilationJobName"]
        for job in stage.client("sagemaker").list_compilation_jobs()["CompilationJobSummaries"]
    }


def test_a_model_comes_with_one_deploy_and_goes_with_one_without_a_trace(
    stage: OfflineDeploy, app: Path, twin: TwinState, tmp_path: Path
) -> None:
    stage.deploy()
    before = contents(stage)
    write_models(app / "edge_assets" / "models", ["flower-01"])
    file = app / "config" / "twin.toml"
    text = file.read_text()
    file.write_text(text.replace("[runtime]", '[[models]]\nfolder = "flower-01"\ncompiler = "neo"\n\n[runtime]', 1))

    more = replace(stage, out=tmp_path / "more")
    more.synth()
    more.deploy()
    brought = contents(stage) - before

    assert len([each for each in brought if each.startswith("edgewright-twin-models Flower01")]) == 3
    assert len([each for each in brought if "edgewright.twin.model.Flower01" in each]) == 1
    assert len([each for each in brought if each.startswith("edgewright-twin-flower-01-")]) == 1

    file.write_text(text)
    less = replace(stage, out=tmp_path / "less")
    less.synth()
    less.deploy()

    assert contents(stage) == before
    device = stage.client("greengrassv2").list_installed_components(coreDeviceThingName="edgewright-twin-edge-server")
    assert "edgewright.twin.model.Flower01" not in [each["componentName"] for each in device["installedComponents"]]
    less.destroy()
    assert stacks(stage) == {}
    assert left(twin) == []


def test_what_a_retained_stage_keeps_is_imported_and_deployed_again(
    stage: OfflineDeploy, app: Path, tmp_path: Path
) -> None:
    file = app / "config" / "twin.toml"
    file.write_text(file.read_text().replace("retain = false", "retain = true"))
    kept = replace(stage, out=tmp_path / "kept")
    kept.synth()
    cdk(kept, "deploy", "Storage", "--require-approval", "never")
    before = resources(kept)
    cdk(kept, "destroy", "Storage", "--force")
    with pytest.raises(CdkError):
        cdk(kept, "deploy", "Storage", "--require-approval", "never")
    cdk(kept, "destroy", "Storage", "--force")

    mapping = tmp_path / "kept.json"
    mapping.write_text(json.dumps({name: {key: value} for name, (key, value) in before.items()}))
    cdk(kept, "import", "Storage", "--resource-mapping", str(mapping), "--force")
    cdk(kept, "deploy", "Storage", "--require-approval", "never")

    assert resources(kept) == before


def cdk(stage: OfflineDeploy, *arguments: str) -> None:
    run_cdk(
        [arguments[0], "--app", str(stage.assembly), *arguments[1:]],
        environment={**stage.environment, "CDK_HOME": str(stage.out / "cdk-home"), "PATH": "/usr/bin:/bin"},
        log=stage.out / f"{arguments[0]}.log",
        timeout_s=300,
        on_line=lambda _line: None,
        cwd=stage.app,
    )


def resources(stage: OfflineDeploy) -> dict[str, tuple[str, str]]:
    """Logical id of what is kept to the key and the value that an import knows it by."""
    keys = {"AWS::S3::Bucket": "BucketName", "AWS::KMS::Key": "KeyId"}
    pages: Any = stage.client("cloudformation").get_paginator("list_stack_resources")
    found = [
        each for page in pages.paginate(StackName="edgewright-twin-storage") for each in page["StackResourceSummaries"]
    ]
    return {
        each["LogicalResourceId"]: (keys[each["ResourceType"]], each["PhysicalResourceId"])
        for each in found
        if each["ResourceType"] in keys
    }
