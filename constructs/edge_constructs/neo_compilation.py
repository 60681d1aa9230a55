"""SageMaker's jobs on a model: compilation by Neo, and the retired edge packaging of what it made."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import CustomResource, Duration, Token
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn, pass_role
from edge_handlers import edge_packaging, neo_compilation

FRAMEWORKS = ("TENSORFLOW", "KERAS", "MXNET", "ONNX", "PYTORCH", "XGBOOST", "TFLITE", "DARKNET", "SKLEARN")
SYSTEMS = ("ANDROID", "LINUX")
ARCHITECTURES = ("X86_64", "X86", "ARM64", "ARM_EABI", "ARM_EABIHF")
ACCELERATORS = ("INTEL_GRAPHICS", "MALI", "NVIDIA", "NNA")
DEVICES = (
    "lambda", "ml_m4", "ml_m5", "ml_m6g", "ml_c4", "ml_c5", "ml_c6g", "ml_p2", "ml_p3", "ml_g4dn", "ml_inf1",
    "ml_inf2", "ml_trn1", "ml_eia2", "jetson_tx1", "jetson_tx2", "jetson_nano", "jetson_xavier", "rasp3b", "rasp4b",
    "imx8qm", "deeplens", "rk3399", "rk3288", "aisage", "sbe_c", "qcs605", "qcs603", "sitara_am57x", "amba_cv2",
    "amba_cv22", "amba_cv25", "x86_win32", "x86_win64", "coreml", "jacinto_tda4vm", "imx8mplus",
)  # fmt: skip
#: Frameworks whose models carry the shapes of their inputs themselves.
SHAPELESS = ("XGBOOST", "SKLEARN")
#: An NVIDIA accelerator's code cannot be made without these (CompilerOptions in the API reference).
NVIDIA_OPTIONS = ("gpu-code", "trt-ver", "cuda-ver")


@dataclass(frozen=True)
class TextRule:
    """The form of a text.

    Attributes:
        pattern: The whole text matches it.
        minimum: Least characters.
        maximum: Most characters.
    """

    pattern: str
    minimum: int
    maximum: int

    def mistakes(self, field: str, value: str) -> Iterator[str]:
        """Say how a text breaks the rule; texts that only CloudFormation knows break none."""
        if Token.is_unresolved(value):
            return
        if not self.minimum <= len(value) <= self.maximum:
            yield f"{field} must have {self.minimum} to {self.maximum} characters, got {len(value)}: {value[:60]!r}"
        elif not re.fullmatch(self.pattern, value, re.DOTALL):
            yield f"{field} must match {self.pattern}, got {value[:60]!r}"


JOB_NAME = TextRule(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", 1, 63)
ROLE_ARN = TextRule(r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+", 20, 2048)
S3_URI = TextRule(r"(https|s3)://([^/]+)/?(.*)", 0, 1024)
DATA_INPUT_CONFIG = TextRule(r"[\S\s]+", 1, 16384)
FRAMEWORK_VERSION = TextRule(r"[0-9]\.[A-Za-z0-9.]+", 3, 10)
COMPILER_OPTIONS = TextRule(r".*", 3, 1024)
KMS_KEY_ID = TextRule(r"[a-zA-Z0-9:/_-]*", 0, 2048)
VPC_ID = TextRule(r"[-0-9a-zA-Z]+", 0, 32)
SECURITY_GROUPS = (1, 5)
SUBNETS = (1, 16)


def one_of(field: str, value: str, known: Sequence[str]) -> Iterator[str]:
    """Say that a value is not among the known ones."""
    if value not in known:
        yield f"{field} must be one of {', '.join(known)}, got {value!r}"


def shape_mistakes(framework: str, shapes: Any) -> Iterator[str]:
    """Check the inputs: names to sizes, whole numbers from 1, or -1 for any."""
    if not shapes:
        if framework not in SHAPELESS:
            yield f"input_shapes must name the inputs of a {framework} model, got none"
        return
    for name, shape in shapes.items():
        if not name:
            yield "input_shapes must name each input, got an empty name"
        if not shape or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
            yield f"input_shapes.{name} must be whole numbers from 1, or -1 for any size, got {shape!r}"
    yield from DATA_INPUT_CONFIG.mistakes("input_shapes", json.dumps(shapes))


def option_mistakes(options: dict[str, Any], accelerator: str) -> Iterator[str]:
    """Check the compiler's options: their length as JSON, and what an accelerator cannot do without."""
    if options:
        yield from COMPILER_OPTIONS.mistakes("compiler_options", json.dumps(options))
    missing = [name for name in NVIDIA_OPTIONS if name not in options]
    if accelerator == "NVIDIA" and missing:
        yield f"compiler_options must hold {', '.join(NVIDIA_OPTIONS)} for NVIDIA, got none for {', '.join(missing)}"


def network_mistakes(subnets: Sequence[str], security_groups: Sequence[str]) -> Iterator[str]:
    """Check the VPC: none at all, or subnets with security groups."""
    if not subnets and not security_groups:
        return
    for name, values, (least, most) in (
        ("subnets", subnets, SUBNETS),
        ("security_groups", security_groups, SECURITY_GROUPS),
    ):
        if not least <= len(values) <= most:
            yield f"{name} must hold {least} to {most} ids where a VPC is used, got {len(values)}"
        for value in values:
            yield from VPC_ID.mistakes(name, value)


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
        yield from one_of("framework", self.framework, FRAMEWORKS)
        if self.framework_version:
            yield from FRAMEWORK_VERSION.mistakes("framework_version", self.framework_version)
        yield from shape_mistakes(self.framework, self.input_shapes)
        if self.device:
            yield from one_of("device", self.device, DEVICES)
            if self.accelerator:
                yield f"accelerator must be left out with device {self.device}, got {self.accelerator!r}"
        else:
            yield from one_of("architecture", self.architecture, tuple(neo_compilation.ARCHITECTURES))
            yield from one_of("system", self.system, SYSTEMS)
            if self.accelerator:
                yield from one_of("accelerator", self.accelerator, ACCELERATORS)
        yield from option_mistakes(dict(self.compiler_options), self.accelerator)

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
        yield from network_mistakes(self.subnets, self.security_groups)


class NeoCompiler(Construct):
    """Compiles models; a change of a source or a target runs a new job, any other change none.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        jobs: What the name of every job starts with, such as `edgewright-dev`.
        role_arn: The role that SageMaker takes.
        output_uri: S3 prefix of the artifacts.
        key_arn: Encrypts the artifacts.
        max_runtime_minutes: The longest that any of the jobs may take.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        jobs: str,
        role_arn: str,
        output_uri: str,
        key_arn: str,
        max_runtime_minutes: int,
    ) -> None:
        super().__init__(scope, construct_id)
        self._role_arn, self._output_uri, self._key_arn = role_arn, output_uri, key_arn
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=neo_compilation,
            permissions=[
                Permission(
                    actions=tuple(
                        f"sagemaker:{verb}CompilationJob" for verb in ("Create", "Describe", "Stop", "Delete")
                    ),
                    resources=(arn("sagemaker", f"compilation-job/{jobs}-*"),),
                    wildcard_reason=_NAMED,
                ),
                pass_role(role_arn, "sagemaker.amazonaws.com"),
            ],
            limit=Duration.minutes(max_runtime_minutes + 10),
            query_interval=Duration.seconds(2),
        )

    def compile(
        self,
        scope: Construct,
        construct_id: str,
        *,
        model: str,
        job: str,
        source_uri: str,
        target: CompilationTarget,
        limits: CompilationLimits | None = None,
    ) -> CustomResource:
        """Define the compilation of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            model: The model's name.
            job: What the job's name starts with, at most 50 characters.
            source_uri: S3 URI of the source archive.
            target: What decides the artifact.
            limits: How the job runs.

        Returns:
            The job; its ArtifactUri and JobName by `get_att_string`.

        Raises:
            CompilationError: SageMaker would refuse the job; the text lists every mistake.
        """
        limits = limits or CompilationLimits()
        mistakes = [
            *TextRule(JOB_NAME.pattern, 1, _LONGEST_PREFIX).mistakes("job", job),
            *ROLE_ARN.mistakes("role_arn", self._role_arn),
            *S3_URI.mistakes("source_uri", source_uri),
            *S3_URI.mistakes("output_uri", self._output_uri),
            *KMS_KEY_ID.mistakes("key_arn", self._key_arn),
            *target.mistakes(),
            *limits.mistakes(),
        ]
        if mistakes:
            raise CompilationError("\n".join(f"compilation of {job}: {mistake}" for mistake in mistakes))
        return self._provider.resource(
            scope,
            construct_id,
            target.job(
                model=model,
                name_prefix=job,
                role_arn=self._role_arn,
                source_uri=source_uri,
                output_uri=self._output_uri,
                max_runtime_s=limits.max_runtime_minutes * 60,
                kms_key_id=self._key_arn,
                subnets=limits.subnets,
                security_group_ids=limits.security_groups if limits.subnets else (),
            ),
        )


class EdgePackager(Construct):
    """Packs compilation jobs' artifacts as SageMaker Edge Manager did: retired, for accounts and twins that still do.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        jobs: What the name of every job starts with, such as `edgewright-dev`.
        role_arn: The role that SageMaker takes.
        output_uri: S3 prefix of the artifacts.
        key_arn: Encrypts the artifacts.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, jobs: str, role_arn: str, output_uri: str, key_arn: str
    ) -> None:
        super().__init__(scope, construct_id)
        self._role_arn, self._output_uri, self._key_arn = role_arn, output_uri, key_arn
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=edge_packaging,
            permissions=[
                Permission(
                    tuple(f"sagemaker:{verb}EdgePackagingJob" for verb in ("Create", "Describe", "Stop")),
                    (arn("sagemaker", f"edge-packaging-job/{jobs}-*"),),
                    wildcard_reason=_NAMED,
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

    def pack(
        self, scope: Construct, construct_id: str, *, job: str, compilation_job: str, model: str, version: str
    ) -> str:
        """Define the packaging of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            job: What the job's name starts with, at most 48 characters.
            compilation_job: Name of the compilation job.
            model: The model's name.
            version: The model's version.

        Returns:
            S3 URI of the artifact.
        """
        resource = self._provider.resource(
            scope,
            construct_id,
            edge_packaging.EdgePackaging(
                name_prefix=job,
                compilation_job=compilation_job,
                model=model,
                version=version,
                role_arn=self._role_arn,
                output_uri=self._output_uri,
                kms_key_id=self._key_arn,
            ),
        )
        return resource.get_att_string("ArtifactUri")


_NAMED = "a job's name ends with a digest of its content, and the models of a stage share the function"
