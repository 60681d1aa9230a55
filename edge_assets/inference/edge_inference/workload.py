"""Any loaded model, whatever its task: verified, loaded and warmed in one step."""

import logging
from pathlib import Path
from typing import Protocol

from edge_inference.answer import Prediction
from edge_inference.classifier import ImageClassifier, TabularClassifier
from edge_inference.declaration import TENSORS, ModelPackage
from edge_inference.model_package import open_package
from edge_inference.model_runtime import ModelRuntime, RuntimeLoader
from edge_inference.request import Request
from edge_inference.samples import load_samples
from edge_inference.signature import SigningKey
from edge_inference.tensor_model import TensorModel

log = logging.getLogger(__name__)


class Workload(Protocol):
    """A model that answers requests; safe to use from several threads."""

    @property
    def package(self) -> ModelPackage:
        """Where it came from."""
        ...

    @property
    def runtime(self) -> ModelRuntime:
        """Runs it."""
        ...

    def predict(self, request: Request, count: int) -> Prediction:
        """Answer a request.

        Args:
            request: What to predict for.
            count: How many labels to name at most.

        Returns:
            The prediction.

        Raises:
            RequestError: The request is not one that this model can answer.
            ValueError: The model's output is not finite.
        """
        ...

    def warm_up(self) -> None:
        """Run the model once, so that the first request pays for nothing.

        Raises:
            ModelPackageError: The model fails, or its output has another shape than declared or is not finite.
        """
        ...


def load_workload(folder: Path, load_runtime: RuntimeLoader, key: SigningKey | None = None) -> Workload:
    """Verify, load and warm a model.

    Args:
        folder: The unpacked package.
        load_runtime: Makes a runtime of a verified package.
        key: Must have signed the package; None, the default, leaves it at the digests.

    Returns:
        A model that has run once.

    Raises:
        ModelPackageError: Any part of it is not usable.
    """
    package = open_package(folder, key)
    if package.signed:
        log.info("%s: signature verified", package.folder)
    else:
        log.warning("%s: signature not checked, digests only: no signingKey is configured", package.folder)
    workload = _workload(package, load_runtime)
    workload.warm_up()
    return workload


def _workload(package: ModelPackage, load_runtime: RuntimeLoader) -> Workload:
    runtime = load_runtime(package)
    if package.task == TENSORS:
        return TensorModel(package, runtime)
    if package.preprocessing is None:
        return TabularClassifier(package, runtime, load_samples(package))
    return ImageClassifier(package, runtime, load_samples(package), package.preprocessing)
