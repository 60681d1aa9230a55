"""What to verify, and whether an answer is the expected one."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.s3_location import S3Location

NAME_PATTERN = re.compile(r"(?=.{1,63}\Z)[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
DIFFERENCES_SHOWN = 3


class VerificationError(RuntimeError):
    """The model does not answer its sample as expected, or the endpoint did not come up."""


@dataclass(frozen=True)
class Verification:
    """The properties of the custom resource.

    Args:
        prefix: `edgewright-<stage>-<model>`; the endpoint's name adds 12 hexadecimal digits.
        role_arn: The SageMaker execution role.
        model: The archive with the ONNX model to verify.
        sample: JSON with `inputs` and `outputs`: name to shape, datatype and data.
        output: Prefix for the server's form of the model.
        image: URI of the Triton image.
        instance_type: Of the endpoint.
        tolerance: Largest difference of a value that is still right.
        kms_key_id: Encrypts what is written; None for the bucket's default.
    """

    prefix: str
    role_arn: str
    model: S3Location
    sample: S3Location
    output: S3Location
    image: str
    instance_type: str
    tolerance: float
    kms_key_id: str | None = None

    @classmethod
    def of(cls, properties: Properties) -> "Verification":
        """Read NamePrefix, RoleArn, ModelUri, SampleUri, OutputUri, Image, InstanceType, Tolerance and KmsKeyId.

        Raises:
            ValueError: One is missing or malformed.
        """
        tolerance = properties.text("Tolerance")
        try:
            limit = float(tolerance)
        except ValueError:
            limit = math.nan
        if not 0 <= limit < math.inf:
            raise ValueError(f"{properties.where}.Tolerance must be a number of at least 0, got {tolerance!r}")
        return cls(
            prefix=properties.text("NamePrefix"),
            role_arn=properties.text("RoleArn"),
            model=S3Location.parse(properties.text("ModelUri")),
            sample=S3Location.parse(properties.text("SampleUri")),
            output=S3Location.parse(properties.text("OutputUri").rstrip("/")),
            image=properties.text("Image"),
            instance_type=properties.text("InstanceType"),
            tolerance=limit,
            kms_key_id=properties.optional_text("KmsKeyId"),
        )

    @property
    def name(self) -> str:
        """Of model, configuration and endpoint alike: the same for the same model, sample and server."""
        told = json.dumps([str(self.model), str(self.sample), self.image, self.instance_type, self.tolerance])
        return f"{self.prefix}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    @property
    def archive(self) -> S3Location:
        """Where the server's form of the model lies."""
        return S3Location(self.output.bucket, f"{self.output.key}/{self.name}/model.tar.gz")


def differences(expected: list[dict[str, Any]], answered: list[dict[str, Any]], tolerance: float) -> Iterator[str]:
    """Compare tensors in the form of the inference protocol: name, shape, data.

    Args:
        expected: The sample's outputs.
        answered: The endpoint's.
        tolerance: Largest difference of a value that is still right.

    Yields:
        One sentence for each difference.
    """
    found = {tensor.get("name"): tensor for tensor in answered}
    for tensor in expected:
        name = tensor["name"]
        if name not in found:
            yield f"output {name} is missing, got {sorted(map(str, found)) or 'none'}"
            continue
        wanted, got = tensor["data"], found[name].get("data", [])
        if list(found[name].get("shape", [])) != list(tensor["shape"]) or len(wanted) != len(got):
            yield f"output {name} must have shape {tensor['shape']}, got {found[name].get('shape')}"
            continue
        for place, (value, other) in enumerate(zip(wanted, got, strict=True)):
            # Written so that a value that is no number is a difference.
            if not abs(value - other) <= tolerance:
                yield f"{name}[{place}] must be {value} ± {tolerance}, got {other}"
