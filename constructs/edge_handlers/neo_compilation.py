"""Custom resource: one SageMaker Neo compilation job: started, followed, stopped and deleted.

The job reads and writes S3 with the execution role; this code touches no object. The job's name follows from its
content, so a repeated event finds the job that the first one started, and a rollback finds the job that was there.
"""

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from botocore.exceptions import ClientError

from edge_handlers.answering import answering
from edge_handlers.custom_resource import (
    Contract,
    Key,
    Properties,
    Request,
    RequestType,
    begun_name,
    content_name,
    json_object,
    parse,
    prefix,
    texts,
    whole,
)
from edge_handlers.s3_objects import check_job, check_own, source_of
from edge_handlers.service_client import client, describe, error_code, explaining, ignoring, unless_absent

LOG = logging.getLogger(__name__)
RUNNING = ("STARTING", "INPROGRESS")
ROLE_ATTEMPTS = 6  # a role made seconds ago cannot be assumed everywhere yet
ROLE_PAUSE_S = 5.0
#: As `uname -m` prints an architecture, to SageMaker's name of it.
ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM64"}
# CompilationJobName of CreateCompilationJob (botocore's model of SageMaker); its limit of 63 characters is written
# into the pattern, which by itself does not count dashes.
NAME_PATTERN = re.compile(r"(?=.{1,63}\Z)[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
# What decides which bytes come out and where they lie. The role and the time limit do not, so that changing them
# starts no new job.
ARTIFACT_FIELDS = (
    "source_uri",
    "output_uri",
    "framework",
    "framework_version",
    "data_input_config",
    "target_device",
    "target_os",
    "target_arch",
    "target_accelerator",
    "compiler_options",
    "kms_key_id",
)


class CompilationError(RuntimeError):
    """The job ended without an artifact."""


@dataclass(frozen=True, kw_only=True)
class CompilationJob(Contract):
    """The job.

    Args:
        model: The model's name: only its own source is compiled.
        name_prefix: `edgewright-<stage>-<model>`; the job's name adds 12 hexadecimal digits.
        role_arn: The SageMaker execution role.
        source_uri: The model archive, s3://…/model.tar.gz.
        output_uri: Prefix under which the job gets a folder of its own name.
        framework: SageMaker's name, such as ONNX.
        max_runtime_s: SageMaker stops the job after that many seconds.
        input_shapes: Name of each of the model's inputs to its shape; None where the model knows them.
        target_device: One of SageMaker's devices, in place of system, architecture and accelerator.
        target_os: LINUX or ANDROID; required without a device.
        target_arch: X86_64, X86, ARM64, ARM_EABI or ARM_EABIHF; required without a device.
        framework_version: None leaves it to SageMaker.
        target_accelerator: INTEL_GRAPHICS, MALI, NVIDIA or NNA; None for the processor.
        compiler_options: JSON text; None for none.
        kms_key_id: Encrypts the output; None for the bucket's default.
        subnets: Of the VPC that the job runs in; none for SageMaker's own network.
        security_group_ids: Of that VPC.
    """

    TYPE = "Custom::NeoCompilation"

    model: Annotated[str, Key("Model")]
    name_prefix: Annotated[str, prefix("JobNamePrefix", "-")]
    role_arn: Annotated[str, Key("RoleArn")]
    source_uri: Annotated[str, Key("SourceUri")]
    output_uri: Annotated[str, prefix("OutputUri")]
    framework: Annotated[str, Key("Framework")]
    max_runtime_s: Annotated[int, whole("MaxRuntimeSeconds", minimum=1)]
    input_shapes: Annotated[Mapping[str, Any] | None, json_object("DataInputConfig")] = None
    target_device: Annotated[str | None, Key("TargetDevice")] = None
    target_os: Annotated[str | None, Key("TargetOs")] = None
    target_arch: Annotated[str | None, Key("TargetArch")] = None
    framework_version: Annotated[str | None, Key("FrameworkVersion")] = None
    target_accelerator: Annotated[str | None, Key("TargetAccelerator")] = None
    compiler_options: Annotated[str | None, Key("CompilerOptions")] = None
    kms_key_id: Annotated[str | None, Key("KmsKeyId")] = None
    subnets: Annotated[tuple[str, ...], texts("Subnets")] = ()
    security_group_ids: Annotated[tuple[str, ...], texts("SecurityGroupIds")] = ()

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read and check the properties; a device says all that system and architecture would.

        Raises:
            ValueError: One is missing or malformed, or the name that they make is not one of SageMaker's.
        """
        job = super().of(properties)
        return replace(job, target_os=None, target_arch=None) if job.target_device else job

    def check(self, properties: Properties) -> None:
        """Refuse a target that is not whole, half a VPC, and a prefix that makes no name of SageMaker's."""
        if not self.target_device:
            properties.text(self.key("target_os"))
            properties.text(self.key("target_arch"))
        if self.subnets:
            properties.texts(self.key("security_group_ids"))
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(
                f"{properties.where}.{self.key('name_prefix')} must be 1 to 50 letters, digits and inner dashes, "
                f"got {self.name_prefix!r}"
            )
        check_job(f"{properties.where}.{self.key('name_prefix')}", self.name_prefix, self.model)
        check_own(f"{properties.where}.{self.key('source_uri')}", self.source_uri, source_of(self.model))

    @property
    def data_input_config(self) -> str | None:
        """The inputs as SageMaker takes them; None where the model knows them."""
        return None if self.input_shapes is None else json.dumps(self.input_shapes, separators=(",", ":"))

    @property
    def name(self) -> str:
        """`<prefix>-<12 hex>`: the same for everything that makes the same artifact."""
        return content_name(self.name_prefix, [getattr(self, field) for field in ARTIFACT_FIELDS])

    def creation_arguments(self) -> dict[str, Any]:
        """The arguments of CreateCompilationJob."""
        platform = _given(Os=self.target_os, Arch=self.target_arch, Accelerator=self.target_accelerator)
        vpc = {"SecurityGroupIds": list(self.security_group_ids), "Subnets": list(self.subnets)}
        return {
            "CompilationJobName": self.name,
            "RoleArn": self.role_arn,
            "InputConfig": _given(
                S3Uri=self.source_uri,
                DataInputConfig=self.data_input_config,
                Framework=self.framework,
                FrameworkVersion=self.framework_version,
            ),
            "OutputConfig": _given(
                S3OutputLocation=f"{self.output_uri}/{self.name}/",
                TargetDevice=self.target_device,
                TargetPlatform=None if self.target_device else platform,
                CompilerOptions=self.compiler_options,
                KmsKeyId=self.kms_key_id,
            ),
            **({"VpcConfig": vpc} if self.subnets else {}),
            "StoppingCondition": {"MaxRuntimeInSeconds": self.max_runtime_s},
        }


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Create and Update start the job, Delete begins to take it away; is_complete finishes both."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        retire(begun_name(request, CompilationJob.of), client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    return start(CompilationJob.of(request.properties), client("sagemaker"))


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll: whether the job has its artifact (Create, Update) or is gone (Delete)."""
    request = parse(event)
    sagemaker = client("sagemaker")
    if request.type is RequestType.DELETE:
        return {"IsComplete": retire(begun_name(request, CompilationJob.of), sagemaker)}
    answer = follow(request.known_id, sagemaker)
    before = _job_before(request)
    if answer["IsComplete"] and before not in (None, request.known_id) and not discard_unfinished(before, sagemaker):
        return {"IsComplete": False}
    return answer


def _job_before(request: Request) -> str | None:
    """Name of the job of the old properties; None where they do not make one (an older release wrote them)."""
    try:
        return CompilationJob.of(request.old_properties).name
    except ValueError:
        return None


def start(job: CompilationJob, sagemaker: Any) -> dict[str, Any]:
    """Make sure that the job runs or has run; one that failed or was stopped is made anew.

    Args:
        job: The wanted job.
        sagemaker: A boto3 SageMaker client.

    Returns:
        What `answering` sends: PhysicalResourceId is the job's name.

    Raises:
        AwsCallError: SageMaker refused a call.
    """
    with explaining(f"start compilation job {job.name}"):
        found = _job(job.name, sagemaker)
        if found is not None and found["CompilationJobStatus"] in ("FAILED", "STOPPED"):
            _delete_ended(job.name, sagemaker)
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
        What `answering` sends: IsComplete and, when it is, Data ArtifactUri and JobName.

    Raises:
        CompilationError: The job failed (with SageMaker's reason), was stopped, or is gone.
        AwsCallError: SageMaker refused the call.
    """
    with explaining(f"describe compilation job {name}"):
        found = _job(name, sagemaker)
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
        found = _job(name, sagemaker)
        if found is None:
            return True
        status = found["CompilationJobStatus"]
        if status in RUNNING:
            _stop(name, sagemaker)
            return False
        if status == "STOPPING":
            return False
        _delete_ended(name, sagemaker)
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
        found = _job(name, sagemaker)
    if found is None or found["CompilationJobStatus"] == "COMPLETED":
        return True
    return retire(name, sagemaker)


def _job(name: str, sagemaker: Any) -> dict[str, Any] | None:
    return describe(sagemaker.describe_compilation_job, CompilationJobName=name)


def _delete_ended(name: str, sagemaker: Any) -> None:
    with unless_absent():
        sagemaker.delete_compilation_job(CompilationJobName=name)


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
    # ValidationException: it ended between the two calls; the next look sees how.
    with ignoring("ValidationException"), unless_absent():
        sagemaker.stop_compilation_job(CompilationJobName=name)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


handler = answering(on_event, is_complete)
