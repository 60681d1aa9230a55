"""What runs a model: the seam between the component and an inference engine."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_inference.model_package import ModelPackage


class ModelRuntime(Protocol):
    """A loaded model."""

    def run(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the model once.

        Args:
            values: The input, in the shape that the package declares.

        Returns:
            The output, in the shape that the package declares.
        """
        ...


class RuntimeLoader(Protocol):
    """Makes a runtime of a verified package."""

    def __call__(self, package: ModelPackage) -> ModelRuntime:
        """Load the model.

        Args:
            package: A package whose files were verified.

        Returns:
            The runtime, ready to run.

        Raises:
            ModelPackageError: The model does not load, or is not the one that the manifest describes.
        """
        ...
