"""SageMaker compilation jobs, with ONNX Runtime's graph optimiser as the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.cloud.registry import Settings


def install(settings: Settings) -> None:
    """Serve `sagemaker` on the gateway."""
    # Here, because the compiler's process imports this package and has no use for the cloud.
    from twin.cloud.sagemaker import api

    api.install(settings)
