"""Starts, follows, stops and deletes one SageMaker Neo compilation job.

Permissions (on_event and is_complete run with the same ones):
    sagemaker:CreateCompilationJob, sagemaker:DescribeCompilationJob, sagemaker:StopCompilationJob,
    sagemaker:DeleteCompilationJob
                    arn:<partition>:sagemaker:<region>:<account>:compilation-job/<JobNamePrefix>-*
    iam:PassRole    the SageMaker execution role, condition iam:PassedToService = sagemaker.amazonaws.com

The job reads and writes S3 with the execution role; this code touches no object. The job's name follows from its
content, so a repeated event finds the job that the first one started, and a rollback finds the job that was there.
"""

import logging
import time
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.neo_compilation.job import NAME_PATTERN, CompilationJob
from edge_handlers.service_client import error_code, explaining

LOG = logging.getLogger(__name__)
RUNNING = ("STARTING", "INPROGRESS")
ROLE_ATTEMPTS = 6  # a role made seconds ago cannot be assumed everywhere yet
ROLE_PAUSE_S = 5.0


class CompilationError(RuntimeError):
    """The job ended without an artifact."""


def start(job: CompilationJob, sagemaker: Any) -> dict[str, Any]:
    """Make sure that the job runs or has run; one that failed or was stopped is made anew.

    Args:
        job: The wanted job.
        sagemaker: A boto3 SageMaker client.

    Returns:
        The answer to the Provider framework: PhysicalResourceId is the job's name.

    Raises:
        AwsCallError: SageMaker refused a call.
    """
    with explaining(f"start compilation job {job.name}"):
        found = describe(job.name, sagemaker)
        if found is not None and found["CompilationJobStatus"] in ("FAILED", "STOPPED"):
            delete_ended(job.name, sagemaker)
            found = None
        if found is None:
            _create(job, sagemaker)
    return {"PhysicalResourceId": job.name}


def follow(name: str, sagemaker: Any) -> dict[str, Any]:
    """Look once how far the job is.

    Args:
        name: The job's name.
        sagemaker: A boto3 SageMaker client.

    Returns:
        The answer to the Provider framework: IsComplete and, when it is, Data ArtifactUri and JobName.

    Raises:
        CompilationError: The job failed (with SageMaker's reason), was stopped, or is gone.
        AwsCallError: SageMaker refused the call.
    """
    with explaining(f"describe compilation job {name}"):
        found = describe(name, sagemaker)
    if found is None:
        raise CompilationError(f"compilation job {name} was deleted while the stack waited for it; deploy again")
    status = found["CompilationJobStatus"]
    if status == "FAILED":
        reason = found.get("FailureReason") or "SageMaker gave no reason"
        raise CompilationError(f"compilation job {name} failed: {reason}")
    if status == "STOPPED":
        raise CompilationError(
            f"compilation job {name} was stopped before it made an artifact, by hand or after its "
            "MaxRuntimeSeconds; raise the limit or deploy again"
        )
    if status != "COMPLETED":
        return {"IsComplete": False}
    return {
        "IsComplete": True,
        "Data": {"ArtifactUri": found["ModelArtifacts"]["S3ModelArtifacts"], "JobName": name},
    }


def retire(name: str, sagemaker: Any) -> bool:
    """Go one step towards the job being gone: stop it, wait, delete it. Repeat until True.

    Args:
        name: The job's name, or any text CloudFormation kept as an id: what cannot be a job is gone.
        sagemaker: A boto3 SageMaker client.

    Returns:
        Whether nothing is left.

    Raises:
        AwsCallError: SageMaker refused a call for another reason than that there is no such job.
    """
    if not NAME_PATTERN.fullmatch(name):
        return True
    with explaining(f"delete compilation job {name}"):
        found = describe(name, sagemaker)
        if found is None:
            return True
        status = found["CompilationJobStatus"]
        if status in RUNNING:
            _stop(name, sagemaker)
            return False
        if status == "STOPPING":
            return False
        delete_ended(name, sagemaker)
        return True


def discard_unfinished(name: str, sagemaker: Any) -> bool:
    """Retire a job that made no artifact, and leave one that did alone.

    After an Update that failed, CloudFormation goes back with another Update and may never have learnt of the job that
    the failed one started: nobody else would take it away. A job that COMPLETED belongs to a resource that
    CloudFormation knows and deletes itself.

    Args:
        name: The job of the properties before this Update.
        sagemaker: A boto3 SageMaker client.

    Returns:
        Whether nothing is left to do.
    """
    with explaining(f"describe compilation job {name}"):
        found = describe(name, sagemaker)
    if found is None or found["CompilationJobStatus"] == "COMPLETED":
        return True
    return retire(name, sagemaker)


def describe(name: str, sagemaker: Any) -> dict[str, Any] | None:
    """Return DescribeCompilationJob's answer, or None where there is no such job."""
    try:
        answer: dict[str, Any] = sagemaker.describe_compilation_job(CompilationJobName=name)
    except ClientError as exc:
        if _is_absent(exc):
            return None
        raise
    return answer


def delete_ended(name: str, sagemaker: Any) -> None:
    """Delete a job that has ended; one that is gone is fine."""
    try:
        sagemaker.delete_compilation_job(CompilationJobName=name)
    except ClientError as exc:
        if not _is_absent(exc):
            raise


def _create(job: CompilationJob, sagemaker: Any) -> None:
    for attempt in range(1, ROLE_ATTEMPTS + 1):
        try:
            sagemaker.create_compilation_job(**job.creation_arguments())
        except ClientError as exc:
            if error_code(exc) == "ResourceInUse":  # the same event, delivered twice at a time
                return
            not_yet = error_code(exc) == "ValidationException" and "assume role" in str(exc)
            if not not_yet or attempt == ROLE_ATTEMPTS:
                raise
            time.sleep(ROLE_PAUSE_S)
        else:
            LOG.info("started compilation job %s", job.name)
            return


def _stop(name: str, sagemaker: Any) -> None:
    try:
        sagemaker.stop_compilation_job(CompilationJobName=name)
    except ClientError as exc:
        # ValidationException: it ended between the two calls; the next look sees how.
        if not _is_absent(exc) and error_code(exc) != "ValidationException":
            raise


def _is_absent(error: ClientError) -> bool:
    """SageMaker says "no such job" by either code, depending on the call."""
    if error_code(error) in ("ResourceNotFound", "ResourceNotFoundException"):
        return True
    text = str(error).lower()
    absent = ("could not find", "not found", "does not exist")
    return error_code(error) == "ValidationException" and any(words in text for words in absent)
