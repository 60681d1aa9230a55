"""Starts, follows and stops one SageMaker edge packaging job.

Permissions:
    sagemaker:CreateEdgePackagingJob, DescribeEdgePackagingJob, StopEdgePackagingJob
                    edge-packaging-job/<JobNamePrefix>-*
    iam:PassRole    the SageMaker execution role, condition iam:PassedToService = sagemaker.amazonaws.com

SageMaker has no call that deletes such a job, and a name is used once: after a job that failed or was stopped the next
one has a number behind its name.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.custom_resource import Properties
from edge_handlers.neo_compilation.job import NAME_PATTERN
from edge_handlers.service_client import error_code, explaining

RETIRED = 'AWS retired these jobs on 2024-04-26; set packager = "own"'
ATTEMPTS = 9
RUNNING = ("STARTING", "INPROGRESS")
ENDED_BADLY = ("FAILED", "STOPPED")


class PackagingError(RuntimeError):
    """The job ended without an artifact."""


@dataclass(frozen=True)
class EdgePackaging:
    """The properties of the custom resource.

    Args:
        name_prefix: `edgewright-<stage>-<model>`; the job's name adds 12 hexadecimal digits.
        compilation_job: The compilation job whose artifact is packed.
        model: The model's name.
        version: The model's version, up to 30 letters, digits, spaces, dots and underscores.
        role_arn: The SageMaker execution role.
        output_uri: Prefix of the artifact.
        kms_key_id: Encrypts the artifact; None for the bucket's default.
    """

    name_prefix: str
    compilation_job: str
    model: str
    version: str
    role_arn: str
    output_uri: str
    kms_key_id: str | None = None

    @classmethod
    def of(cls, properties: Properties) -> "EdgePackaging":
        """Read JobNamePrefix, CompilationJobName, ModelName, ModelVersion, RoleArn, OutputUri and KmsKeyId.

        Raises:
            ValueError: One is missing, or the name it makes is not one of SageMaker's.
        """
        job = cls(
            name_prefix=properties.text("JobNamePrefix").rstrip("-"),
            compilation_job=properties.text("CompilationJobName"),
            model=properties.text("ModelName"),
            version=properties.text("ModelVersion"),
            role_arn=properties.text("RoleArn"),
            output_uri=properties.text("OutputUri").rstrip("/"),
            kms_key_id=properties.optional_text("KmsKeyId"),
        )
        if not NAME_PATTERN.fullmatch(job.name(ATTEMPTS)):
            raise ValueError(
                f"{properties.where}.JobNamePrefix must be 1 to 48 letters, digits and inner dashes, "
                f"got {job.name_prefix!r}"
            )
        return job

    def name(self, attempt: int) -> str:
        """Name of an attempt, from 1: the same for everything that makes the same artifact."""
        told = json.dumps([self.compilation_job, self.model, self.version, self.output_uri, self.kms_key_id])
        name = f"{self.name_prefix}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        return name if attempt == 1 else f"{name}-{attempt}"


def start(job: EdgePackaging, sagemaker: Any) -> str:
    """Make sure that the job runs or has run.

    Returns:
        Its name.

    Raises:
        PackagingError: All attempts have failed.
        AwsCallError: SageMaker refused a call; today it refuses them all.
    """
    for attempt in range(1, ATTEMPTS + 1):
        name = job.name(attempt)
        with explaining(f"start edge packaging job {name} ({RETIRED})"):
            found = describe(name, sagemaker)
            if found is None:
                _create(name, job, sagemaker)
                return name
            if found["EdgePackagingJobStatus"] not in ENDED_BADLY:
                return name
    raise PackagingError(f"edge packaging job {job.name(1)} failed {ATTEMPTS} times; change the model or its version")


def follow(name: str, sagemaker: Any) -> dict[str, Any]:
    """Look once how far the job is.

    Returns:
        The answer to the Provider framework: IsComplete and, when it is, Data ArtifactUri and JobName.

    Raises:
        PackagingError: The job failed (with SageMaker's reason), was stopped, or is gone.
        AwsCallError: SageMaker refused the call.
    """
    with explaining(f"describe edge packaging job {name} ({RETIRED})"):
        found = describe(name, sagemaker)
    if found is None:
        raise PackagingError(f"edge packaging job {name} is gone; deploy again")
    status = found["EdgePackagingJobStatus"]
    if status in ENDED_BADLY:
        reason = found.get("EdgePackagingJobStatusMessage") or "SageMaker gave no reason"
        raise PackagingError(f"edge packaging job {name} is {status}: {reason}")
    if status != "COMPLETED":
        return {"IsComplete": False}
    return {"IsComplete": True, "Data": {"ArtifactUri": found["ModelArtifact"], "JobName": name}}


def retire(name: str, sagemaker: Any) -> bool:
    """Stop the job if it runs; repeat until True, when it has ended.

    Args:
        name: The job's name; what cannot be one is gone.
        sagemaker: A boto3 SageMaker client.
    """
    if not NAME_PATTERN.fullmatch(name):
        return True
    with explaining(f"stop edge packaging job {name} ({RETIRED})"):
        found = describe(name, sagemaker)
        if found is None:
            return True
        if found["EdgePackagingJobStatus"] in RUNNING:
            try:
                sagemaker.stop_edge_packaging_job(EdgePackagingJobName=name)
            except ClientError as exc:
                # ValidationException: it ended between the two calls; the next look sees how.
                if not _is_absent(exc) and error_code(exc) != "ValidationException":
                    raise
            return False
        return bool(found["EdgePackagingJobStatus"] != "STOPPING")


def describe(name: str, sagemaker: Any) -> dict[str, Any] | None:
    """Return DescribeEdgePackagingJob's answer, or None where there is no such job."""
    try:
        answer: dict[str, Any] = sagemaker.describe_edge_packaging_job(EdgePackagingJobName=name)
    except ClientError as exc:
        if _is_absent(exc):
            return None
        raise
    return answer


def _create(name: str, job: EdgePackaging, sagemaker: Any) -> None:
    # A folder of its own: SageMaker names the artifact after model and version, which another content may share.
    output = {"S3OutputLocation": f"{job.output_uri}/{name}/"}
    if job.kms_key_id:
        output["KmsKeyId"] = job.kms_key_id
    try:
        sagemaker.create_edge_packaging_job(
            EdgePackagingJobName=name,
            CompilationJobName=job.compilation_job,
            ModelName=job.model,
            ModelVersion=job.version,
            RoleArn=job.role_arn,
            OutputConfig=output,
        )
    except ClientError as exc:
        if error_code(exc) != "ResourceInUse":  # the same event, delivered twice at a time
            raise


def _is_absent(error: ClientError) -> bool:
    code, text = error_code(error), str(error).lower()
    return code in ("ResourceNotFound", "ResourceNotFoundException") or (
        code == "ValidationException" and any(words in text for words in ("could not find", "not found"))
    )
