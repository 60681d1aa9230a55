"""What SageMaker was about when the cloud was stopped goes on, so that nobody waits for it for ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from tests.handlers.model_archive import targz
from tests.twin.conftest import trust, wait_until
from twin import lifecycle

DIGITS = Path(__file__).resolve().parents[2] / "edge_assets" / "models" / "digits" / "model.onnx"


def put_back(home: Path, store: str, status: str, former: str) -> None:
    """Let what has ended be under way, as a stop at another moment leaves it."""
    path = home / "state" / f"twin_{store}.json"
    text = path.read_text()
    assert status in text
    path.write_text(text.replace(status, former))


def clients(home: Path) -> Callable[[str], Any]:
    arguments = lifecycle.start(home).client_arguments()
    return lambda service: boto3.client(service, **arguments)


def test_endpoints_and_packaging_jobs_under_way_end_after_a_restart(home: Path) -> None:
    client = clients(home)
    sagemaker, s3 = client("sagemaker"), client("s3")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="source.tar.gz", Body=targz({"model.onnx": DIGITS.read_bytes()}))
    s3.put_object(Bucket="models", Key="served.tar.gz", Body=targz({"digits/1/model.onnx": DIGITS.read_bytes()}))
    role = client("iam").create_role(
        RoleName="worker", AssumeRolePolicyDocument=json.dumps(trust("sagemaker.amazonaws.com"))
    )["Role"]["Arn"]
    sagemaker.create_compilation_job(
        CompilationJobName="compiled",
        RoleArn=role,
        InputConfig={
            "S3Uri": "s3://models/source.tar.gz",
            "Framework": "ONNX",
            "DataInputConfig": '{"image": [1, 1, 8, 8]}',
        },
        OutputConfig={
            "S3OutputLocation": "s3://models/compiled/",
            "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
        },
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    wait_until(
        lambda: sagemaker.describe_compilation_job(CompilationJobName="compiled")["CompilationJobStatus"] == "COMPLETED"
    )
    sagemaker.create_edge_packaging_job(
        EdgePackagingJobName="packaged",
        CompilationJobName="compiled",
        ModelName="digits",
        ModelVersion="1.0",
        RoleArn=role,
        OutputConfig={"S3OutputLocation": "s3://models/packaged/"},
    )
    sagemaker.create_model(
        ModelName="digits",
        ExecutionRoleArn=role,
        Containers=[{"Image": "server", "ModelDataUrl": "s3://models/served.tar.gz"}],
    )
    variant = {"VariantName": "only", "ModelName": "digits", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="digits", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="digits", EndpointConfigName="digits")

    def packaging(client: Callable[[str], Any]) -> str:
        job = client("sagemaker").describe_edge_packaging_job(EdgePackagingJobName="packaged")
        return str(job["EdgePackagingJobStatus"])

    def endpoint(client: Callable[[str], Any]) -> str:
        return str(client("sagemaker").describe_endpoint(EndpointName="digits")["EndpointStatus"])

    wait_until(lambda: packaging(client) == "COMPLETED" and endpoint(client) == "InService")
    lifecycle.stop(home)
    put_back(home, "edge_packaging_jobs", "COMPLETED", "INPROGRESS")
    put_back(home, "sagemaker_endpoints", "InService", "Creating")

    after = clients(home)

    wait_until(lambda: packaging(after) == "COMPLETED" and endpoint(after) == "InService", 60)
