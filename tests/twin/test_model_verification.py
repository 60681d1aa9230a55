"""The verification's own code against the twin's endpoints, which answer by real inference."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from edge_handlers.model_verification import Verification, VerificationError, follow, remove, start
from tests.handlers.model_archive import targz
from tests.twin.conftest import Clients, trust, wait_until
from tools.verification_sample import make_sample

DIGITS = Path(__file__).resolve().parents[2] / "edge_assets" / "models" / "digits"
BUCKET = "verification"


@pytest.fixture(scope="module")
def role(client: Clients) -> str:
    client("s3").create_bucket(Bucket=BUCKET)
    made = client("iam").create_role(
        RoleName="serving", AssumeRolePolicyDocument=json.dumps(trust("sagemaker.amazonaws.com"))
    )
    return str(made["Role"]["Arn"])


def verification(client: Clients, role: str, model: bytes, sample: dict[str, Any]) -> Verification:
    s3 = client("s3")
    s3.put_object(Bucket=BUCKET, Key="sources/small/model.tar.gz", Body=targz({"model.onnx": model}))
    s3.put_object(Bucket=BUCKET, Key="sources/small/sample.json", Body=json.dumps(sample).encode())
    return Verification(
        model="small",
        prefix=f"verify-{uuid.uuid4().hex[:8]}-small",
        role_arn=role,
        model_uri=f"s3://{BUCKET}/sources/small/model.tar.gz",
        sample_uri=f"s3://{BUCKET}/sources/small/sample.json",
        output_uri=f"s3://{BUCKET}/verification/small",
        image="sagemaker-tritonserver",
        instance_type="ml.c5.large",
        tolerance=1e-3,
    )


def outcome(client: Clients, wanted: Verification) -> dict[str, Any]:
    """Poll as the Provider framework does."""
    start(wanted, client("sagemaker"), client("s3"))
    answers: list[dict[str, Any]] = []

    def done() -> bool:
        answers.append(follow(wanted, client("sagemaker"), client("sagemaker-runtime"), client("s3")))
        return bool(answers[-1]["IsComplete"])

    wait_until(done, 90)
    return answers[-1]


def assert_nothing_left(client: Clients, wanted: Verification) -> None:
    wait_until(lambda: remove(wanted.name, client("sagemaker")), 60)
    assert client("sagemaker").list_endpoints()["Endpoints"] == []
    assert client("sagemaker").list_models()["Models"] == []


def test_the_committed_sample_is_answered_as_expected(client: Clients, role: str) -> None:
    sample = json.loads((DIGITS / "verification.json").read_text())

    wanted = verification(client, role, (DIGITS / "model.onnx").read_bytes(), sample)

    assert outcome(client, wanted)["Data"] == {"EndpointName": wanted.name}
    assert_nothing_left(client, wanted)


def test_a_model_that_answers_otherwise_is_refused(client: Clients, role: str) -> None:
    sample = make_sample(DIGITS, index=1)
    sample["outputs"][0]["data"][3] += 0.5

    wanted = verification(client, role, (DIGITS / "model.onnx").read_bytes(), sample)

    with pytest.raises(VerificationError, match=r"logits\[3\] must be"):
        outcome(client, wanted)
    assert_nothing_left(client, wanted)


def test_a_broken_model_fails_the_endpoint_with_the_runtimes_words(client: Clients, role: str) -> None:
    wanted = verification(client, role, b"no model", make_sample(DIGITS, index=2))

    with pytest.raises(VerificationError, match=r"failed: .*INVALID_PROTOBUF"):
        outcome(client, wanted)
    assert_nothing_left(client, wanted)


@pytest.mark.parametrize(
    "changes",
    [{}, {"PrimaryContainer": {"Image": "server"}}, {"Containers": [{"Image": "one"}, {"Image": "two"}]}],
)
def test_a_model_that_cannot_be_served_is_refused_when_it_is_made(
    client: Clients, role: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match=r"\(ValidationException\).*one container with ModelDataUrl"):
        client("sagemaker").create_model(ModelName="unservable", ExecutionRoleArn=role, **changes)


def test_models_are_listed_page_by_page_by_part_of_their_name(client: Clients, role: str) -> None:
    sagemaker, container = client("sagemaker"), {"Image": "server", "ModelDataUrl": "s3://somewhere/model.tar.gz"}
    many = [f"listed-{number:02}" for number in range(12)]
    for name in many:
        sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)

    try:
        pages = list(
            sagemaker.get_paginator("list_models").paginate(
                NameContains="listed-", SortBy="Name", SortOrder="Ascending"
            )
        )

        assert [len(each["Models"]) for each in pages] == [10, 2]
        found = [model for each in pages for model in each["Models"]]
        assert [model["ModelName"] for model in found] == many
        assert all(model["ModelArn"].endswith(f":model/{model['ModelName']}") for model in found)
        assert sagemaker.list_models(NameContains="another")["Models"] == []
    finally:
        for name in many:
            sagemaker.delete_model(ModelName=name)


@pytest.mark.parametrize(
    ("model", "reason"),
    [({"ModelName": "never-made"}, "Could not find Model"), ({}, "ModelName of each variant must be")],
)
def test_a_configuration_of_a_model_that_is_not_there_is_refused(
    client: Clients, model: dict[str, str], reason: str
) -> None:
    with pytest.raises(ClientError, match=rf"\(ValidationException\).*{reason}"):
        client("sagemaker").create_endpoint_config(
            EndpointConfigName="of-nothing", ProductionVariants=[{"VariantName": "only", **model}]
        )
