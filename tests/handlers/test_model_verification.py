import io
import json
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from edge_handlers.model_verification import VerificationError, is_complete, on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_endpoints import FakeEndpoints
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import targz

CAPABILITY = "model_verification"
MODEL = "compiled/edgewright-dev-digits-0123456789ab/model-LINUX_X86_64.tar.gz"
SAMPLE = "sources/digits/SHA/verification.json"
INPUTS = [{"name": "image", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.0]}]
OUTPUTS = [{"name": "logits", "shape": [1, 3], "datatype": "FP32", "data": [1.0, -2.0, 0.25]}]


@pytest.fixture
def cloud(serve: Callable[..., None], s3: FakeS3) -> FakeEndpoints:
    fake = FakeEndpoints()
    fake.answer = {"outputs": OUTPUTS}
    serve(**{"sagemaker": fake, "sagemaker-runtime": fake, "logs": fake})
    s3.put("artifacts-dev", MODEL, targz({"model.onnx": b"compiled"}))
    s3.put("artifacts-dev", SAMPLE, json.dumps({"inputs": INPUTS, "outputs": OUTPUTS}).encode())
    return fake


def run(request: dict[str, Any]) -> dict[str, Any]:
    return on_event(request, Context())


def look(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return is_complete(event.poll(request, answer), Context())


def serving(cloud: FakeEndpoints, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Create whose endpoint is up."""
    request = event.create(CAPABILITY, **changes)
    answer = run(request)
    cloud.endpoints[answer["PhysicalResourceId"]]["EndpointStatus"] = "InService"
    return request, answer


def answered(values: list[float], name: str = "logits", shape: list[int] | None = None) -> dict[str, Any]:
    return {"outputs": [{"name": name, "shape": shape or [1, 3], "datatype": "FP32", "data": values}]}


@pytest.mark.parametrize("status", ["InService", "Failed"])
def test_the_logs_of_an_endpoint_get_an_end(cloud: FakeEndpoints, status: str) -> None:
    request, answer = serving(cloud)
    name = answer["PhysicalResourceId"]
    group = f"/aws/sagemaker/Endpoints/{name}"
    cloud.log_groups = {group: None, "/aws/sagemaker/Endpoints/theirs": None}
    cloud.endpoints[name]["EndpointStatus"] = status

    with pytest.raises(VerificationError) if status == "Failed" else nullcontext():
        look(request, answer)

    assert cloud.log_groups == {group: 30, "/aws/sagemaker/Endpoints/theirs": None}


def test_a_right_answer_completes_and_nothing_is_left(cloud: FakeEndpoints) -> None:
    request = event.create(CAPABILITY)
    answer = run(request)
    assert look(request, answer) == {"IsComplete": False}
    cloud.endpoints[answer["PhysicalResourceId"]]["EndpointStatus"] = "InService"

    assert look(request, answer)["IsComplete"]

    assert cloud.nothing_left
    assert cloud.called("invoke_endpoint")[0]["Body"] == {"inputs": INPUTS}


def test_the_server_gets_the_model_in_its_own_form(cloud: FakeEndpoints, s3: FakeS3) -> None:
    name = run(event.create(CAPABILITY))["PhysicalResourceId"]

    container = cloud.models[name]["PrimaryContainer"]
    assert container["ModelDataUrl"] == f"s3://artifacts-dev/verification/digits/{name}/model.tar.gz"
    assert s3.content("artifacts-dev", f"verification/digits/{name}/model.tar.gz")
    assert cloud.models[name]["EnableNetworkIsolation"] is True


NEO = {"Framework": "PYTORCH", "Image": "111122223333.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-inference-pytorch:1.12"}


def test_neos_image_gets_what_neo_made_and_the_entry_point(cloud: FakeEndpoints, s3: FakeS3) -> None:
    s3.put("artifacts-dev", MODEL, targz({"compiled.pt": b"compiled", "code/inference.py": b"of the source"}))
    request, created = serving(cloud, **NEO)
    name = created["PhysicalResourceId"]
    # Neo's image answers without names, in the model's order.
    cloud.answer = {"outputs": [{"datatype": "FP32", "shape": [1, 3], "data": [1.0, -2.0, 0.25]}]}

    assert look(request, created)["IsComplete"]

    container = cloud.called("create_model")[0]["PrimaryContainer"]
    assert container["Environment"]["SAGEMAKER_PROGRAM"] == "inference.py"
    assert cloud.called("invoke_endpoint")[0]["ContentType"] == "application/json"
    packed = s3.content("artifacts-dev", f"verification/digits/{name}/model.tar.gz")
    assert packed is not None
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert set(files) == {"compiled.pt", "code/inference.py"}
    assert b"def transform_fn" in files["code/inference.py"]


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        ([[1.0, -2.0, 0.5]], r"logits\[2\] must be 0.25"),
        ([], "output logits is missing, got none"),
        ([[1.0, -2.0, 0.25], [0.0]], "output logits is missing, got"),
    ],
)
def test_a_wrong_answer_of_neos_image_fails(cloud: FakeEndpoints, outputs: list[list[float]], error: str) -> None:
    request, created = serving(cloud, **NEO)
    cloud.answer = {"outputs": [{"datatype": "FP32", "shape": [1, len(each)], "data": each} for each in outputs]}

    with pytest.raises(VerificationError, match=error):
        look(request, created)
    assert cloud.nothing_left


def test_a_framework_without_an_image_is_refused(cloud: FakeEndpoints) -> None:
    with pytest.raises(ValueError, match=r"Framework must be one of PYTORCH, or left out, got 'TENSORFLOW'"):
        run(event.create(CAPABILITY, Framework="TENSORFLOW"))
    assert cloud.nothing_left


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answered([1.0, -2.0, 0.2]), r"logits\[2\] must be 0.25 ± 0.001, got 0.2"),
        (answered([9, 9, 9]), r"logits\[0\] must be 1.0 .*; logits\[1\] must be .*; logits\[2\]"),
        (answered([1.0, float("nan"), 0.25]), r"logits\[1\] must be -2.0 ± 0.001, got nan"),
        (answered([1.0, -2.0], shape=[1, 2]), r"output logits must have shape \[1, 3\], got \[1, 2\]"),
        (answered([1.0, -2.0, 0.25], name="other"), r"output logits is missing, got \['other'\]"),
        ({"error": "no"}, "output logits is missing, got none"),
    ],
)
def test_a_wrong_answer_fails_and_nothing_is_left(cloud: FakeEndpoints, answer: dict[str, Any], error: str) -> None:
    request, created = serving(cloud)
    cloud.answer = answer

    with pytest.raises(VerificationError, match=f"does not answer its sample as expected: {error}"):
        look(request, created)
    assert cloud.nothing_left


def test_a_difference_within_the_tolerance_is_right(cloud: FakeEndpoints) -> None:
    request, created = serving(cloud, Tolerance="0.1")
    cloud.answer = answered([1.05, -2.0, 0.25])

    assert look(request, created)["IsComplete"]


def test_a_failed_endpoint_is_reported_with_its_reason_and_taken_away(cloud: FakeEndpoints) -> None:
    request, created = serving(cloud)
    cloud.endpoints[created["PhysicalResourceId"]].update(EndpointStatus="Failed", FailureReason="no image")

    with pytest.raises(VerificationError, match="failed: no image"):
        look(request, created)
    assert cloud.nothing_left


def test_an_endpoint_that_is_gone_is_reported(cloud: FakeEndpoints) -> None:
    request, created = serving(cloud)
    cloud.endpoints.clear()

    with pytest.raises(VerificationError, match="was deleted while the stack waited"):
        look(request, created)


def test_a_duplicate_event_makes_nothing_twice(cloud: FakeEndpoints) -> None:
    assert run(event.create(CAPABILITY)) == run(event.create(CAPABILITY))
    assert len(cloud.called("create_endpoint")) == 1


def test_an_update_of_the_model_verifies_anew_and_one_of_the_role_does_not(cloud: FakeEndpoints, s3: FakeS3) -> None:
    _, created = serving(cloud)
    name = created["PhysicalResourceId"]
    s3.put("artifacts-dev", "compiled/edgewright-dev-digits-ba9876543210/other.tar.gz", targz({"model.onnx": b"other"}))

    same = run(event.update(CAPABILITY, name, RoleArn="arn:aws:iam::111122223333:role/other"))
    other = run(
        event.update(
            CAPABILITY, name, ModelUri="s3://artifacts-dev/compiled/edgewright-dev-digits-ba9876543210/other.tar.gz"
        )
    )

    assert same["PhysicalResourceId"] == name
    assert other["PhysicalResourceId"] != name


def test_delete_waits_for_an_endpoint_that_comes_up_and_succeeds_twice(cloud: FakeEndpoints) -> None:
    name = run(event.create(CAPABILITY))["PhysicalResourceId"]
    request = event.delete(CAPABILITY, name)

    answer = run(request)
    assert look(request, answer) == {"IsComplete": False}
    cloud.endpoints[name]["EndpointStatus"] = "InService"
    assert look(request, answer) == {"IsComplete": False}
    assert look(request, answer) == {"IsComplete": True}
    assert look(request, run(request)) == {"IsComplete": True}
    assert cloud.nothing_left


@pytest.mark.parametrize("physical_id", ["", "not_a_name", "x" * 90])
def test_delete_of_what_never_was_succeeds(cloud: FakeEndpoints, physical_id: str) -> None:
    request = event.delete(CAPABILITY, physical_id or "edgewright-dev-digits-000000000000")

    assert look(request, run(request)) == {"IsComplete": True}


@pytest.mark.parametrize("call", ["describe_endpoint", "create_model", "create_endpoint_config", "create_endpoint"])
def test_a_start_that_is_refused_says_what_was_being_done_and_leaves_nothing(cloud: FakeEndpoints, call: str) -> None:
    cloud.refuse(call, "AccessDeniedException", message="not authorized")

    with pytest.raises(AwsCallError, match=r"cannot start endpoint edgewright-dev-digits-.*not authorized"):
        run(event.create(CAPABILITY))
    assert cloud.nothing_left


def test_a_start_that_is_refused_is_told_where_its_clean_up_is_refused_too(cloud: FakeEndpoints) -> None:
    cloud.refuse("create_endpoint", "AccessDeniedException", message="not authorized")
    cloud.refuse("delete_endpoint_config", "AccessDeniedException", message="not even that")

    with pytest.raises(AwsCallError, match=r"cannot start endpoint edgewright-dev-digits-.*not authorized"):
        run(event.create(CAPABILITY))


@pytest.mark.parametrize("status", ["Failed", "Deleting"])
def test_an_endpoint_that_serves_no_more_does_not_keep_from_making_one(cloud: FakeEndpoints, status: str) -> None:
    request, created = serving(cloud)
    cloud.endpoints[created["PhysicalResourceId"]]["EndpointStatus"] = status

    run(request)

    assert len(cloud.called("create_endpoint")) == 2


def test_a_refused_invocation_still_takes_the_endpoint_away(cloud: FakeEndpoints) -> None:
    request, created = serving(cloud)
    cloud.refuse("invoke_endpoint", "ModelError", message="server error")

    with pytest.raises(AwsCallError, match=r"cannot invoke endpoint .*server error"):
        look(request, created)
    assert cloud.nothing_left


def test_an_invocation_that_is_throttled_is_made_again(cloud: FakeEndpoints) -> None:
    request, created = serving(cloud)
    cloud.refuse("invoke_endpoint", "ThrottlingException")
    cloud.answer = answered([1.0, -2.0, 0.25])

    with pytest.raises(AwsCallError, match="ThrottlingException"):  # asked again, see `answering`
        look(request, created)

    assert look(request, created)["IsComplete"]
    assert cloud.nothing_left


@pytest.mark.parametrize("code", ["OperationAbortedException", "ThrottlingException"])
def test_logs_whose_end_cannot_be_set_just_now_fail_nothing(cloud: FakeEndpoints, code: str) -> None:
    request, created = serving(cloud)
    cloud.answer = answered([1.0, -2.0, 0.25])
    cloud.refuse("put_retention_policy", code)

    assert look(request, created)["IsComplete"]
    cloud.refuse("put_retention_policy", code)
    name = created["PhysicalResourceId"]
    assert run(event.delete(CAPABILITY, name))["PhysicalResourceId"] == name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("create_model", "Could not assume role"),
        ("create_endpoint_config", "Could not find model"),
        ("create_endpoint", "Could not find endpoint configuration"),
    ],
)
def test_what_was_made_a_moment_ago_is_waited_for(
    cloud: FakeEndpoints, pauses: list[float], call: str, message: str
) -> None:
    cloud.refuse(call, "ValidationException", times=2, message=message)

    run(event.create(CAPABILITY))

    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("instance", "has_key"),
    [("ml.c5.large", True), ("ml.c6gn.large", True), ("ml.inf2.xlarge", True), ("ml.p3.2xlarge", True)]
    + [(f"ml.{family}.large", False) for family in ("m5d", "c6gd", "g4dn", "g5", "g6e", "p4de", "p6-b200", "trn1n")],
)
def test_a_disk_of_the_instances_own_gets_no_key(cloud: FakeEndpoints, instance: str, has_key: bool) -> None:
    run(event.create(CAPABILITY, InstanceType=instance, KmsKeyId="arn:aws:kms:eu-west-1:111122223333:key/1"))

    (made,) = cloud.called("create_endpoint_config")
    assert ("KmsKeyId" in made) == has_key


def test_only_onnx_can_be_verified(cloud: FakeEndpoints, s3: FakeS3) -> None:
    s3.put("artifacts-dev", MODEL, targz({"compiled.so": b""}))

    with pytest.raises(VerificationError, match="only ONNX models can be verified"):
        run(event.create(CAPABILITY))
    assert cloud.nothing_left


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf", "much"])
def test_a_tolerance_is_a_number(cloud: FakeEndpoints, tolerance: str) -> None:
    with pytest.raises(ValueError, match=r"Tolerance must be a number of at least 0"):
        run(event.create(CAPABILITY, Tolerance=tolerance))
