from typing import Any

import pytest

from edge_handlers.neo_compilation import is_complete, on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_sagemaker import FakeSageMaker


def run(request: dict[str, Any]) -> dict[str, Any]:
    return on_event(request, Context())


def look(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return is_complete(event.poll(request, answer), Context())


def created(sagemaker: FakeSageMaker, status: str = "COMPLETED", **changes: Any) -> str:
    """A job that has come to an end (or "INPROGRESS"); its name."""
    name: str = run(event.create("neo_compilation", **changes))["PhysicalResourceId"]
    sagemaker.end(name, status)
    return name


def test_create_starts_a_job_named_after_its_content(sagemaker: FakeSageMaker) -> None:
    request = event.create("neo_compilation", FrameworkVersion="1.7", TargetAccelerator="NVIDIA", KmsKeyId="key")

    name = run(request)["PhysicalResourceId"]

    prefix, _, digits = name.rpartition("-")
    assert prefix == "edgewright-dev-digits"
    assert len(digits) == 12
    assert sagemaker.called("create_compilation_job") == [
        {
            "CompilationJobName": name,
            "RoleArn": "arn:aws:iam::111122223333:role/edgewright-dev-sagemaker",
            "InputConfig": {
                "S3Uri": "s3://artifacts-dev/sources/digits/SHA/model.tar.gz",
                "DataInputConfig": '{"input":[1,64]}',
                "Framework": "ONNX",
                "FrameworkVersion": "1.7",
            },
            "OutputConfig": {
                "S3OutputLocation": f"s3://artifacts-dev/compiled/{name}/",
                "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64", "Accelerator": "NVIDIA"},
                "KmsKeyId": "key",
            },
            "StoppingCondition": {"MaxRuntimeInSeconds": 900},
        }
    ]


def test_what_is_not_given_is_not_sent(sagemaker: FakeSageMaker) -> None:
    run(event.create("neo_compilation", FrameworkVersion=""))

    [arguments] = sagemaker.called("create_compilation_job")
    assert set(arguments["InputConfig"]) == {"S3Uri", "DataInputConfig", "Framework"}
    assert set(arguments["OutputConfig"]) == {"S3OutputLocation", "TargetPlatform"}


def test_is_complete_when_the_artifact_is_there(sagemaker: FakeSageMaker) -> None:
    request = event.create("neo_compilation")
    answer = run(request)
    name = answer["PhysicalResourceId"]

    for status in ("STARTING", "INPROGRESS"):
        sagemaker.end(name, status)
        assert look(request, answer) == {"IsComplete": False}
    sagemaker.end(name, "COMPLETED")

    assert look(request, answer) == {
        "IsComplete": True,
        "Data": {
            "ArtifactUri": f"s3://artifacts-dev/compiled/{name}/model-LINUX_X86_64.tar.gz",
            "JobName": name,
        },
    }


@pytest.mark.parametrize("status", ["STARTING", "INPROGRESS", "COMPLETED"])
def test_a_duplicate_event_follows_the_same_job(sagemaker: FakeSageMaker, status: str) -> None:
    first = run(event.create("neo_compilation"))
    sagemaker.end(first["PhysicalResourceId"], status)

    assert run(event.create("neo_compilation")) == first
    assert len(sagemaker.called("create_compilation_job")) == 1


def test_a_duplicate_event_at_the_same_moment_is_fine(sagemaker: FakeSageMaker) -> None:
    sagemaker.refuse("create_compilation_job", "ResourceInUse")

    assert run(event.create("neo_compilation"))["PhysicalResourceId"].startswith("edgewright-dev-digits-")


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_deploy_after_a_failure_runs_the_job_again(sagemaker: FakeSageMaker, status: str) -> None:
    name = created(sagemaker, status)

    assert run(event.create("neo_compilation")) == {"PhysicalResourceId": name}
    assert sagemaker.jobs[name]["CompilationJobStatus"] == "STARTING"


@pytest.mark.parametrize(
    "change",
    [
        {"MaxRuntimeSeconds": "1800"},
        {"RoleArn": "arn:aws:iam::111122223333:role/other"},
        {"DataInputConfig": '{"input":  [1,64]}'},
        {"OutputUri": "s3://artifacts-dev/compiled/"},
    ],
)
def test_an_update_that_changes_no_artifact_starts_no_job(sagemaker: FakeSageMaker, change: dict[str, Any]) -> None:
    name = created(sagemaker)
    request = event.update("neo_compilation", name, **change)

    answer = run(request)

    assert answer == {"PhysicalResourceId": name}
    assert look(request, answer)["IsComplete"]
    assert len(sagemaker.called("create_compilation_job")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"SourceUri": "s3://artifacts-dev/sources/digits/OTHER/model.tar.gz"},
        {"OutputUri": "s3://artifacts-new/compiled"},
        {"Framework": "PYTORCH"},
        {"FrameworkVersion": "1.8"},
        {"DataInputConfig": '{"input": [2, 64]}'},
        {"TargetOs": "ANDROID"},
        {"TargetArch": "ARM64"},
        {"TargetAccelerator": "NVIDIA"},
        {"CompilerOptions": '{"dtype": "float16"}'},
        {"KmsKeyId": "other"},
    ],
)
def test_an_update_that_changes_the_artifact_replaces_the_job(sagemaker: FakeSageMaker, change: dict[str, Any]) -> None:
    old = created(sagemaker)
    request = event.update("neo_compilation", old, **change)

    answer = run(request)
    sagemaker.end(answer["PhysicalResourceId"], "COMPLETED")

    assert answer["PhysicalResourceId"] != old
    assert look(request, answer)["IsComplete"]
    assert old in sagemaker.jobs, "a rollback still needs it; CloudFormation's Delete takes it away"


def test_old_properties_of_another_release_do_not_matter(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker)
    request = event.update("neo_compilation", name, old={"TargetArch": None, "DataInputConfig": "not JSON"})

    assert look(request, run(request))["IsComplete"]


@pytest.mark.parametrize("call", ["describe_compilation_job", "create_compilation_job"])
def test_access_denied_on_create_says_what_was_being_done(sagemaker: FakeSageMaker, call: str) -> None:
    sagemaker.refuse(call, "AccessDeniedException", message="not authorized to perform: iam:PassRole")

    with pytest.raises(AwsCallError, match=r"cannot start compilation job edgewright-dev-digits-.*iam:PassRole"):
        run(event.create("neo_compilation"))


def test_a_role_made_a_moment_ago_is_waited_for(sagemaker: FakeSageMaker, pauses: list[float]) -> None:
    sagemaker.refuse("create_compilation_job", "ValidationException", times=2, message="Could not assume role arn")

    run(event.create("neo_compilation"))

    assert len(sagemaker.jobs) == 1
    assert pauses == [5.0, 5.0]


def test_a_role_that_cannot_be_assumed_is_reported_in_the_end(sagemaker: FakeSageMaker) -> None:
    sagemaker.refuse("create_compilation_job", "ValidationException", times=9, message="Could not assume role arn")

    with pytest.raises(AwsCallError, match="Could not assume role arn"):
        run(event.create("neo_compilation"))
    assert len(sagemaker.called("create_compilation_job")) == 6


@pytest.mark.parametrize("prefix", ["edge_wright", "a" * 51, "1 2", "-"])
def test_refuses_a_prefix_that_makes_no_job_name(sagemaker: FakeSageMaker, prefix: str) -> None:
    with pytest.raises(ValueError, match="JobNamePrefix must be 1 to 50 letters, digits and inner dashes, got"):
        run(event.create("neo_compilation", JobNamePrefix=prefix))
    assert sagemaker.calls == []
