"""What CreateCompilationJob takes, checked at synth: a mistake costs seconds there, and a rolled-back stack later.

Patterns, lengths and values are those of the API (boto3 1.43), with which tests/unit/test_neo_rules.py compares them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Token

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
    for field, values, (least, most) in (
        ("subnets", subnets, SUBNETS),
        ("security_groups", security_groups, SECURITY_GROUPS),
    ):
        if not least <= len(values) <= most:
            yield f"{field} must hold {least} to {most} ids where a VPC is used, got {len(values)}"
        for value in values:
            yield from VPC_ID.mistakes(field, value)
