"""SageMaker's jobs on a model: compilation by Neo, and the retired edge packaging of what it made."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Duration
from constructs import Construct

from edge_constructs import neo_rules as rules
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn, pass_role
from edge_handlers import edge_packaging, neo_compilation

#: A job's name adds a dash and 12 digits of its content.
_LONGEST_PREFIX = 50
#: CloudFormation waits an hour for a custom resource; the waiter and its margin need some of it.
MAX_RUNTIME_MINUTES = 45


class CompilationError(ValueError):
    """SageMaker would refuse the job; the text lists every mistake with field, rule and value."""


@dataclass(frozen=True)
class CompilationTarget:
    """What decides the compiler's artifact.

    Attributes:
        framework: SageMaker's name of the source's framework, such as `ONNX`.
        input_shapes: Name of each input to its shape; empty for frameworks whose models know it.
        architecture: Of the devices, as `uname -m` prints it; unused with a device.
        framework_version: Left to SageMaker unless given.
        device: One of SageMaker's devices, such as `jetson_xavier`, in place of system, architecture and accelerator.
        accelerator: `INTEL_GRAPHICS`, `MALI`, `NVIDIA` or `NNA`; the processor unless given.
        system: `LINUX` or `ANDROID`.
        compiler_options: The compiler's own, such as `{"mattr": ["+neon"]}`.
    """

    framework: str
    input_shapes: Mapping[str, Sequence[int]]
    architecture: str
    framework_version: str = ""
    device: str = ""
    accelerator: str = ""
    system: str = "LINUX"
    compiler_options: Mapping[str, Any] = field(default_factory=dict)

    def mistakes(self) -> Iterator[str]:
        """List what SageMaker would refuse."""
        yield from rules.one_of("framework", self.framework, rules.FRAMEWORKS)
        if self.framework_version:
            yield from rules.FRAMEWORK_VERSION.mistakes("framework_version", self.framework_version)
        yield from rules.shape_mistakes(self.framework, self.input_shapes)
        if self.device:
            yield from rules.one_of("device", self.device, rules.DEVICES)
            if self.accelerator:
                yield f"accelerator must be left out with device {self.device}, got {self.accelerator!r}"
        else:
            yield from rules.one_of("architecture", self.architecture, tuple(neo_compilation.ARCHITECTURES))
            yield from rules.one_of("system", self.system, rules.SYSTEMS)
            if self.accelerator:
                yield from rules.one_of("accelerator", self.accelerator, rules.ACCELERATORS)
        yield from rules.option_mistakes(dict(self.compiler_options), self.accelerator)

    def job(self, **others: Any) -> neo_compilation.CompilationJob:
        """Describe a job for it.

        Args:
            others: What else the contract has, which does not follow from the target.
        """
        return neo_compilation.CompilationJob(
            framework=self.framework,
            input_shapes=self.input_shapes or None,
            target_device=self.device or None,
            target_os=None if self.device else self.system,
            target_arch=None if self.device else neo_compilation.ARCHITECTURES[self.architecture],
            framework_version=self.framework_version or None,
            target_accelerator=self.accelerator or None,
            compiler_options=json.dumps(dict(self.compiler_options)) if self.compiler_options else None,
            **others,
        )


@dataclass(frozen=True)
class CompilationLimits:
    """How a job runs, which does not change what comes out of it.

    Attributes:
        max_runtime_minutes: SageMaker stops a job after so long.
        subnets: Of the VPC that the job reaches S3 through; none for SageMaker's own network.
        security_groups: Of that VPC.
    """

    max_runtime_minutes: int = 30
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()

    def mistakes(self) -> Iterator[str]:
        """List what SageMaker or CloudFormation would refuse."""
        if not 1 <= self.max_runtime_minutes <= MAX_RUNTIME_MINUTES:
            yield f"max_runtime_minutes must be 1 to {MAX_RUNTIME_MINUTES}, got {self.max_runtime_minutes}"
        yield from rules.network_mistakes(self.subnets, self.security_groups)


class NeoCompilation(Construct):
    """Compiles one model; a change of source or target runs a new job, any other change none.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        job: Name of the jobs without the suffix of their content, at most 50 characters.
        role_arn: The role that SageMaker takes to read the source and write the artifact.
        source_uri: S3 URI of the source archive.
        output_uri: S3 prefix of the artifacts.
        target: What the model is compiled from and for.
        key_arn: Encrypts the artifact.
        limits: How the job runs; half an hour at most and without a VPC unless given.

    Raises:
        CompilationError: SageMaker would refuse the job.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        job: str,
        role_arn: str,
        source_uri: str,
        output_uri: str,
        target: CompilationTarget,
        key_arn: str,
        limits: CompilationLimits | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        limits = limits or CompilationLimits()
        mistakes = [
            *rules.TextRule(rules.JOB_NAME.pattern, 1, _LONGEST_PREFIX).mistakes("job", job),
            *rules.ROLE_ARN.mistakes("role_arn", role_arn),
            *rules.S3_URI.mistakes("source_uri", source_uri),
            *rules.S3_URI.mistakes("output_uri", output_uri),
            *rules.KMS_KEY_ID.mistakes("key_arn", key_arn),
            *target.mistakes(),
            *limits.mistakes(),
        ]
        if mistakes:
            raise CompilationError("\n".join(f"compilation of {job}: {mistake}" for mistake in mistakes))
        provider = HandlerProvider(
            self,
            "Handler",
            handler=neo_compilation,
            permissions=_permissions(job, role_arn),
            limit=Duration.minutes(limits.max_runtime_minutes + 10),
            query_interval=Duration.seconds(2),
        )
        resource = provider.resource(
            self,
            "Job",
            target.job(
                name_prefix=job,
                role_arn=role_arn,
                source_uri=source_uri,
                output_uri=output_uri,
                max_runtime_s=limits.max_runtime_minutes * 60,
                kms_key_id=key_arn,
                subnets=limits.subnets,
                security_group_ids=limits.security_groups if limits.subnets else (),
            ),
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")
        self.job_name = resource.get_att_string("JobName")


class EdgePackaging(Construct):
    """Packs a compilation job's artifact as SageMaker Edge Manager did: retired, for accounts and twins that still do.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        job: What the job's name starts with, at most 48 characters.
        compilation_job: Name of the compilation job.
        model: The model's name.
        version: The model's version.
        role_arn: The role that SageMaker takes.
        output_uri: S3 prefix of the artifact.
        key_arn: Encrypts the artifact.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        job: str,
        compilation_job: str,
        model: str,
        version: str,
        role_arn: str,
        output_uri: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            handler=edge_packaging,
            permissions=[
                Permission(
                    tuple(f"sagemaker:{verb}EdgePackagingJob" for verb in ("Create", "Describe", "Stop")),
                    (arn("sagemaker", f"edge-packaging-job/{job}-*"),),
                    wildcard_reason="a job's name ends with a digest of its content",
                ),
                pass_role(role_arn, "sagemaker.amazonaws.com"),
            ],
            limit=Duration.minutes(30),
            query_interval=Duration.seconds(5),
            accepted={
                "Edge-EdgeManager": "a stage asks for it by a model's packager, in an account where the service still "
                "answers; by default the packager is our own"
            },
        )
        resource = provider.resource(
            self,
            "Job",
            edge_packaging.EdgePackaging(
                name_prefix=job,
                compilation_job=compilation_job,
                model=model,
                version=version,
                role_arn=role_arn,
                output_uri=output_uri,
                kms_key_id=key_arn,
            ),
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")


def _permissions(job: str, role_arn: str) -> list[Permission]:
    return [
        Permission(
            actions=tuple(f"sagemaker:{verb}CompilationJob" for verb in ("Create", "Describe", "Stop", "Delete")),
            resources=(arn("sagemaker", f"compilation-job/{job}-*"),),
            wildcard_reason="a job's name ends with a digest of its content",
        ),
        pass_role(role_arn, "sagemaker.amazonaws.com"),
    ]
