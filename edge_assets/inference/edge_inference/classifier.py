"""A model that names what a picture shows."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_inference import image
from edge_inference.answer import Prediction
from edge_inference.model_package import ModelPackage, ModelPackageError, open_package
from edge_inference.model_runtime import ModelRuntime, RuntimeLoader
from edge_inference.postprocessing import top_k
from edge_inference.request import ErrorCode, Request, RequestError
from edge_inference.samples import load_samples
from edge_inference.signature import SigningKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A loaded model with everything that its predictions need.

    Args:
        package: Where it came from.
        runtime: Runs it.
        samples: Held-out pictures, shape (count, height, width, channels), 0 to 1; count may be 0.
    """

    package: ModelPackage
    runtime: ModelRuntime
    samples: NDArray[np.float32]

    def classify(self, request: Request, count: int) -> Prediction:
        """Answer a request.

        Args:
            request: Asks for a sample or brings a picture.
            count: How many labels to name.

        Returns:
            The prediction.

        Raises:
            RequestError: IndexOutOfRange or InvalidImage.
            ValueError: The model's output is not finite.
        """
        logits = self.runtime.run(self.package.preprocessing.apply(self._pixels(request)))
        return Prediction(self.package.version, top_k(logits[0], self.package.labels, count))

    def warm_up(self) -> None:
        """Run the model once on an empty picture, so that the first request pays for nothing.

        Raises:
            ModelPackageError: The model fails, or its output has another shape than declared or is not finite.
        """
        preprocessing = self.package.preprocessing
        _, channels, height, width = preprocessing.shape
        try:
            output = self.runtime.run(preprocessing.apply(np.zeros((height, width, channels), np.float32)))
        except Exception as exc:
            raise ModelPackageError(f"{self.package.model_file} fails on an empty picture: {exc}") from exc
        if output.shape != self.package.output.shape or not np.isfinite(output).all():
            raise ModelPackageError(
                f"{self.package.model_file} must answer with finite values of shape {self.package.output.shape}, "
                f"got {output.shape}"
            )

    def _pixels(self, request: Request) -> NDArray[np.float32]:
        if request.image is not None:
            wanted = self.package.preprocessing
            try:
                return image.decode(request.image, wanted.width, wanted.height, wanted.mode)
            except RequestError as exc:
                raise RequestError(exc.code, str(exc), request.request_id) from exc
        index, count = request.index, len(self.samples)
        if index is None or not 0 <= index < count:
            known = f"from 0 to {count - 1}" if count else "left out, this model has no samples"
            shown = index if index is None or abs(index) < 1 << 64 else "a very large number"
            raise RequestError(ErrorCode.INDEX_OUT_OF_RANGE, f"index must be {known}, got {shown}", request.request_id)
        pixels: NDArray[np.float32] = self.samples[index]
        return pixels


def load_classifier(folder: Path, load_runtime: RuntimeLoader, key: SigningKey | None = None) -> Classifier:
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
    classifier = Classifier(package, load_runtime(package), load_samples(package))
    classifier.warm_up()
    return classifier
