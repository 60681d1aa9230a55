"""Custom resource: one SageMaker edge packaging job, a call that AWS retired and the twin still serves.

SageMaker has no call that deletes such a job, and a name is used once: after a job that failed or was stopped the next
one has a number behind its name.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import (
    Contract,
    Key,
    Properties,
    RequestType,
    begun_name,
    content_name,
    parse,
    prefix,
)
from edge_handlers.neo_compilation import NAME_PATTERN, RUNNING
from edge_handlers.service_client import client, describe, explaining, ignoring, unless_absent

RETIRED = 'AWS retired these jobs on 2024-04-26; set packager = "own"'
ATTEMPTS = 9
ENDED_BADLY = ("FAILED", "STOPPED")


class PackagingError(RuntimeError):
    """The job ended without an artifact."""


@dataclass(frozen=True)
class EdgePackaging(Contract):
    """The job.

    Args:
        name_prefix: `edgewright-<stage>-<model>`; the job's name adds 12 hexadecimal digits.
        compilation_job: The compilation job whose artifact is packed.
        model: The model's name.
        version: The model's version, up to 30 letters, digits, spaces, dots and underscores.
        role_arn: The SageMaker execution role.
        output_uri: Prefix of the artifact.
        kms_key_id: Encrypts the artifact; None for the bucket's default.
    """

    TYPE = "Custom::EdgePackaging"

    name_prefix: Annotated[str, prefix("JobNamePrefix", "-")]
    compilation_job: Annotated[str, Key("CompilationJobName")]
    model: Annotated[str, Key("ModelName")]
    version: Annotated[str, Key("ModelVersion")]
    role_arn: Annotated[str, Key("RoleArn")]
    output_uri: Annotated[str, prefix("OutputUri")]
    kms_key_id: Annotated[str | None, Key("KmsKeyId")] = None

    def check(self, properties: Properties) -> None:
        """Refuse a prefix that makes no name of SageMaker's."""
        if not NAME_PATTERN.fullmatch(self.attempt(ATTEMPTS)):
            raise ValueError(
                f"{properties.where}.{self.key('name_prefix')} must be 1 to 48 letters, digits and inner dashes, "
                f"got {self.name_prefix!r}"
            )
        if not self.name_prefix.endswith(f"-{self.model}") or not self.compilation_job.startswith(
            f"{self.name_prefix}-"
        ):
            raise ValueError(
                f"{properties.where}.{self.key('name_prefix')} and {self.key('compilation_job')} must be of the model "
                f"{self.model!r}, got {self.name_prefix!r} and {self.compilation_job!r}"
            )

    @property
    def name(self) -> str:
        """Of the first attempt: the same for everything that makes the same artifact."""
        told = [self.compilation_job, self.model, self.version, self.output_uri, self.kms_key_id]
        return content_name(self.name_prefix, told)

    def attempt(self, number: int) -> str:
        """Name of an attempt, from 1."""
        return self.name if number == 1 else f"{self.name}-{number}"


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Create and Update start the job, Delete stops it; is_complete finishes both."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        retire(begun_name(request, EdgePackaging.of), client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": start(EdgePackaging.of(request.properties), client("sagemaker"))}


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll: whether the job has its artifact (Create, Update) or has ended (Delete)."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": retire(begun_name(request, EdgePackaging.of), client("sagemaker"))}
    return follow(request.known_id, client("sagemaker"))


def start(job: EdgePackaging, sagemaker: Any) -> str:
    """Make sure that the job runs or has run.

    Returns:
        Its name.

    Raises:
        PackagingError: All attempts have failed.
        AwsCallError: SageMaker refused a call; today it refuses them all.
    """
    for attempt in range(1, ATTEMPTS + 1):
        name = job.attempt(attempt)
        with explaining(f"start edge packaging job {name} ({RETIRED})"):
            found = _job(name, sagemaker)
            if found is None:
                _create(name, job, sagemaker)
                return name
            if found["EdgePackagingJobStatus"] not in ENDED_BADLY:
                return name
    raise PackagingError(f"edge packaging job {job.name} failed {ATTEMPTS} times; change the model or its version")


def follow(name: str, sagemaker: Any) -> dict[str, Any]:
    """Look once how far the job is.

    Returns:
        What `answering` sends: IsComplete and, when it is, Data ArtifactUri and JobName.

    Raises:
        PackagingError: The job failed (with SageMaker's reason), was stopped, or is gone.
        AwsCallError: SageMaker refused the call.
    """
    with explaining(f"describe edge packaging job {name} ({RETIRED})"):
        found = _job(name, sagemaker)
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
        found = _job(name, sagemaker)
        if found is None:
            return True
        if found["EdgePackagingJobStatus"] in RUNNING:
            # ValidationException: it ended between the two calls; the next look sees how.
            with ignoring("ValidationException"), unless_absent():
                sagemaker.stop_edge_packaging_job(EdgePackagingJobName=name)
            return False
        return bool(found["EdgePackagingJobStatus"] != "STOPPING")


def _job(name: str, sagemaker: Any) -> dict[str, Any] | None:
    return describe(sagemaker.describe_edge_packaging_job, EdgePackagingJobName=name)


def _create(name: str, job: EdgePackaging, sagemaker: Any) -> None:
    # A folder of its own: SageMaker names the artifact after model and version, which another content may share.
    output = {"S3OutputLocation": f"{job.output_uri}/{name}/"}
    if job.kms_key_id:
        output["KmsKeyId"] = job.kms_key_id
    with ignoring("ResourceInUse"):  # the same event, delivered twice at a time
        sagemaker.create_edge_packaging_job(
            EdgePackagingJobName=name,
            CompilationJobName=job.compilation_job,
            ModelName=job.model,
            ModelVersion=job.version,
            RoleArn=job.role_arn,
            OutputConfig=output,
        )


handler = answering(on_event, is_complete)
