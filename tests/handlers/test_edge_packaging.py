from collections.abc import Callable
from typing import Any

import pytest

from edge_handlers.custom_resource import parse
from edge_handlers.edge_packaging import PackagingError, is_complete, on_event
from edge_handlers.model_package import ModelPackage
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_service import FakeService, refusal

CAPABILITY = "edge_packaging"


class FakePackaging(FakeService):
    """Edge packaging jobs by name; a test moves a job on by its status."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}

    def create_edge_packaging_job(self, **arguments: Any) -> dict[str, Any]:
        self.record("create_edge_packaging_job", **arguments)
        name = arguments["EdgePackagingJobName"]
        if name in self.jobs:
            raise refusal("ResourceInUse", "CreateEdgePackagingJob")
        self.jobs[name] = {**arguments, "EdgePackagingJobStatus": "STARTING"}
        return {}

    def describe_edge_packaging_job(self, EdgePackagingJobName: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_edge_packaging_job", EdgePackagingJobName=EdgePackagingJobName)
        if EdgePackagingJobName not in self.jobs:
            raise refusal("ResourceNotFound", "DescribeEdgePackagingJob")
        return self.jobs[EdgePackagingJobName]

    def stop_edge_packaging_job(self, EdgePackagingJobName: str) -> dict[str, Any]:  # noqa: N803
        self.record("stop_edge_packaging_job", EdgePackagingJobName=EdgePackagingJobName)
        self.jobs[EdgePackagingJobName]["EdgePackagingJobStatus"] = "STOPPING"
        return {}

    def end(self, name: str, status: str, message: str = "") -> None:
        self.jobs[name] |= {"EdgePackagingJobStatus": status, "EdgePackagingJobStatusMessage": message}
        if status == "COMPLETED":
            self.jobs[name]["ModelArtifact"] = f"{self.jobs[name]['OutputConfig']['S3OutputLocation']}digits-1.0.tar.gz"


@pytest.fixture
def sagemaker(serve: Callable[..., None]) -> FakePackaging:
    fake = FakePackaging()
    serve(sagemaker=fake)
    return fake


def run(request: dict[str, Any]) -> str:
    name: str = on_event(request, Context())["PhysicalResourceId"]
    return name


def look(request: dict[str, Any], name: str) -> dict[str, Any]:
    return is_complete(event.poll(request, {"PhysicalResourceId": name}), Context())


def test_the_artifact_lies_in_a_folder_of_the_jobs_own(sagemaker: FakePackaging) -> None:
    request = event.create(CAPABILITY, KmsKeyId="key")
    name = run(request)
    assert look(request, name) == {"IsComplete": False}

    sagemaker.end(name, "COMPLETED")

    uri = f"s3://artifacts-dev/compiled/edge-manager/{name}/digits-1.0.tar.gz"
    assert look(request, name) == {"IsComplete": True, "Data": {"ArtifactUri": uri, "JobName": name}}
    assert sagemaker.jobs[name]["OutputConfig"]["KmsKeyId"] == "key"
    # It is what the model's package is made of.
    assert ModelPackage.of(parse(event.create("model_package", CompiledUri=uri)).properties).compiled_uri == uri


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_job_that_made_nothing_fails_and_the_next_deploy_takes_another_name(
    sagemaker: FakePackaging, status: str
) -> None:
    request = event.create(CAPABILITY)
    name = run(request)
    sagemaker.end(name, status, "no rights")

    with pytest.raises(PackagingError, match=f"{name} is {status}: no rights"):
        look(request, name)
    assert run(request) == f"{name}-2"


def test_nine_failures_are_enough(sagemaker: FakePackaging) -> None:
    for _ in range(9):
        sagemaker.end(run(event.create(CAPABILITY)), "FAILED")

    with pytest.raises(PackagingError, match="failed 9 times"):
        run(event.create(CAPABILITY))


def test_the_retired_call_says_so(sagemaker: FakePackaging) -> None:
    sagemaker.refuse("create_edge_packaging_job", "UnknownOperationException")

    with pytest.raises(AwsCallError, match=r'AWS retired these jobs on 2024-04-26; set packager = "own"'):
        run(event.create(CAPABILITY))


def test_a_duplicate_event_follows_the_same_job(sagemaker: FakePackaging) -> None:
    assert run(event.create(CAPABILITY)) == run(event.create(CAPABILITY))
    sagemaker.jobs.clear()
    sagemaker.refuse("create_edge_packaging_job", "ResourceInUse")
    assert run(event.create(CAPABILITY))


def test_an_update_runs_a_job_only_for_another_artifact(sagemaker: FakePackaging) -> None:
    name = run(event.create(CAPABILITY))

    assert run(event.update(CAPABILITY, name, RoleArn="arn:aws:iam::111122223333:role/other")) == name
    assert run(event.update(CAPABILITY, name, CompilationJobName="edgewright-dev-digits-ba9876543210")) != name


def test_delete_stops_a_running_job_and_succeeds_twice(sagemaker: FakePackaging) -> None:
    name = run(event.create(CAPABILITY))
    request = event.delete(CAPABILITY, name)

    run(request)
    assert look(request, name) == {"IsComplete": False}
    sagemaker.end(name, "STOPPED")
    assert look(request, name) == {"IsComplete": True}
    assert look(request, run(request)) == {"IsComplete": True}


def test_delete_stops_the_attempt_that_runs(sagemaker: FakePackaging) -> None:
    first = run(event.create(CAPABILITY))
    sagemaker.end(first, "FAILED")
    second = run(event.create(CAPABILITY))

    run(event.delete(CAPABILITY, second))

    assert sagemaker.jobs[second]["EdgePackagingJobStatus"] == "STOPPING"


@pytest.mark.parametrize("name", ["gone-0123456789ab", "no_name"])
def test_delete_of_what_never_was_succeeds(sagemaker: FakePackaging, name: str) -> None:
    assert look(event.delete(CAPABILITY, name), name) == {"IsComplete": True}


def test_a_job_that_vanished_is_reported(sagemaker: FakePackaging) -> None:
    request = event.create(CAPABILITY)
    name = run(request)
    sagemaker.jobs.clear()

    with pytest.raises(PackagingError, match="is gone"):
        look(request, name)
