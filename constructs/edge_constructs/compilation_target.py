"""What a model is compiled from and for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_constructs import neo_rules as rules

_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM64"}
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
            yield from rules.one_of("architecture", self.architecture, tuple(_ARCHITECTURES))
            yield from rules.one_of("system", self.system, rules.SYSTEMS)
            if self.accelerator:
                yield from rules.one_of("accelerator", self.accelerator, rules.ACCELERATORS)
        yield from rules.option_mistakes(dict(self.compiler_options), self.accelerator)

    def properties(self) -> dict[str, Any]:
        """The properties of the custom resource that follow from it."""
        place = {
            "TargetDevice": self.device,
            "TargetOs": "" if self.device else self.system,
            "TargetArch": "" if self.device else _ARCHITECTURES[self.architecture],
            "TargetAccelerator": self.accelerator,
            "FrameworkVersion": self.framework_version,
            "DataInputConfig": json.dumps(dict(self.input_shapes)) if self.input_shapes else "",
            "CompilerOptions": json.dumps(dict(self.compiler_options)) if self.compiler_options else "",
        }
        return {"Framework": self.framework, **{name: value for name, value in place.items() if value}}


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
