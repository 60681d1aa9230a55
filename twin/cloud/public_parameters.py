"""The public SSM parameters that name the current Amazon Linux 2023 images."""

from __future__ import annotations

from ministack.services import ssm

from twin.cloud.registry import Settings

_IMAGES = {"x86_64": "ami-0c2023a1b2c3d4e5f", "arm64": "ami-0c2023a1b2c3d4e5a"}
_KERNELS = ("default", "6.1", "6.12")
_FOLDER = "/aws/service/ami-amazon-linux-latest"


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Add the parameters for each kernel and architecture, standard and minimal images."""
    ssm._PUBLIC_AMI_PARAMETERS.update(
        {
            f"{_FOLDER}/al2023-ami-{variant}kernel-{kernel}-{architecture}": image
            for variant in ("", "minimal-")
            for kernel in _KERNELS
            for architecture, image in _IMAGES.items()
        }
    )
