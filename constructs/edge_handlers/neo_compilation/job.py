"""A compilation job as the stack describes it, and the name that follows from it."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties

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


@dataclass(frozen=True)
class CompilationJob:
    """The properties of the custom resource.

    Args:
        name_prefix: `edgewright-<stage>-<model>`; the job's name adds 12 hexadecimal digits.
        role_arn: The SageMaker execution role.
        source_uri: The model archive, s3://…/model.tar.gz.
        output_uri: Prefix under which the job gets a folder of its own name.
        framework: SageMaker's name, such as ONNX.
        max_runtime_s: SageMaker stops the job after that many seconds.
        data_input_config: Names and shapes of the model's inputs, JSON text; None where the model knows them.
        target_device: One of SageMaker's devices, in place of system, architecture and accelerator.
        target_os: LINUX or ANDROID.
        target_arch: X86_64, X86, ARM64, ARM_EABI or ARM_EABIHF.
        framework_version: None leaves it to SageMaker.
        target_accelerator: INTEL_GRAPHICS, MALI, NVIDIA or NNA; None for the processor.
        compiler_options: JSON text; None for none.
        kms_key_id: Encrypts the output; None for the bucket's default.
        subnets: Of the VPC that the job runs in; none for SageMaker's own network.
        security_group_ids: Of that VPC.
    """

    name_prefix: str
    role_arn: str
    source_uri: str
    output_uri: str
    framework: str
    max_runtime_s: int
    data_input_config: str | None = None
    target_device: str | None = None
    target_os: str | None = None
    target_arch: str | None = None
    framework_version: str | None = None
    target_accelerator: str | None = None
    compiler_options: str | None = None
    kms_key_id: str | None = None
    subnets: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, properties: Properties) -> "CompilationJob":
        """Read the properties.

        Raises:
            ValueError: One is missing or malformed, or the name it makes is not one of SageMaker's.
        """
        device = properties.optional_text("TargetDevice")
        inputs = properties.json_object("DataInputConfig") if properties.optional_text("DataInputConfig") else None
        in_vpc = "Subnets" in properties.values
        job = cls(
            name_prefix=properties.text("JobNamePrefix").rstrip("-"),
            role_arn=properties.text("RoleArn"),
            source_uri=properties.text("SourceUri"),
            output_uri=properties.text("OutputUri").rstrip("/"),
            framework=properties.text("Framework"),
            data_input_config=None if inputs is None else json.dumps(inputs, separators=(",", ":")),
            target_device=device,
            target_os=None if device else properties.text("TargetOs"),
            target_arch=None if device else properties.text("TargetArch"),
            max_runtime_s=properties.integer("MaxRuntimeSeconds", minimum=1),
            framework_version=properties.optional_text("FrameworkVersion"),
            target_accelerator=properties.optional_text("TargetAccelerator"),
            compiler_options=properties.optional_text("CompilerOptions"),
            kms_key_id=properties.optional_text("KmsKeyId"),
            subnets=properties.texts("Subnets") if in_vpc else (),
            security_group_ids=properties.texts("SecurityGroupIds") if in_vpc else (),
        )
        if not NAME_PATTERN.fullmatch(job.name):
            raise ValueError(
                f"{properties.where}.JobNamePrefix must be 1 to 50 letters, digits and inner dashes, "
                f"got {job.name_prefix!r}"
            )
        return job

    @property
    def name(self) -> str:
        """`<prefix>-<12 hex>`: the same for everything that makes the same artifact."""
        told = json.dumps([getattr(self, field) for field in ARTIFACT_FIELDS])
        return f"{self.name_prefix}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

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


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
