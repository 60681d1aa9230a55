"""What runs a model: the seam between the component and an inference engine."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from edge_inference.model_package import ModelPackage


class ModelRuntime(Protocol):
    """A loaded model."""

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the model once.

        Args:
            values: The input, in the shape and type that the package declares.

        Returns:
            The output, in the shape that the package declares.
        """
        ...

    def run_tensors(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a model with any number of inputs and outputs once.

        Args:
            values: Name of each input to its value.

        Returns:
            Name of each declared output to its value.
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
