"""Models that find objects in a picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.messages import Request
from edge_inference.models.classifier import sample
from edge_inference.models.detection import Detection
from edge_inference.models.drift import measure
from edge_inference.models.package import ModelPackage, ModelPackageError
from edge_inference.models.pictures import Decoded, Preprocessing
from edge_inference.models.prediction import Prediction, Score
from edge_inference.models.runtime import ModelRuntime
from edge_inference.models.tensors import fits


@dataclass(frozen=True)
class ObjectDetector:
    """A loaded detector.

    Args:
        package: Where it came from.
        runtime: Runs it.
        samples: Held-out pictures, shape (count, height, width, channels), 0 to 1; count may be 0.
        preprocessing: From pixels to the input.
        detection: From the outputs to objects.
    """

    package: ModelPackage
    runtime: ModelRuntime
    samples: NDArray[np.float32]
    preprocessing: Preprocessing
    detection: Detection

    def predict(self, request: Request, count: int) -> Prediction:
        """Find the objects of a request's picture; see `Workload.predict`."""
        request.needs("index", "image")
        if request.image is not None:
            pixels, size = self.preprocessing.decode(request.image)
        else:
            pixels, size = sample(self.samples, request), (self.preprocessing.width, self.preprocessing.height)
        scores = self._objects(self._run(pixels), size)
        measures = {} if self.package.reference is None else measure(pixels)
        return Prediction(
            self.package.version, scores[:count], notice=self.package.notice, size=size, measures=measures
        )

    def warm_up(self) -> None:
        """Look at the first sample, or at an empty picture; see `Workload.warm_up`."""
        wanted, what = self.preprocessing, "an empty picture, add samples if it cannot take one"
        seen = Decoded(
            np.zeros((wanted.height, wanted.width, wanted.channels), np.uint8), (wanted.width, wanted.height)
        )
        if len(self.samples):
            seen, what = seen._replace(pixels=self.samples[0]), "its first sample"
        try:
            outputs = self._run(seen.pixels)
            for tensor in self.package.outputs:
                found = outputs[tensor.name].shape
                if not fits(tensor, outputs[tensor.name]):
                    raise ValueError(f"output {tensor.name} must have the shape {tensor.shape}, got {found}")
            self._objects(outputs, seen.size)
        except Exception as exc:
            raise ModelPackageError(f"{self.package.model_file} fails on {what}: {exc}") from exc

    def _run(self, pixels: NDArray[Any]) -> dict[str, NDArray[Any]]:
        given = self.package.model_input
        # Some exports take a picture without a batch.
        values = self.preprocessing.apply(pixels).reshape(given.shape)
        return self.runtime.run_tensors({given.name: values})

    def _objects(self, outputs: dict[str, NDArray[Any]], size: tuple[int, int]) -> list[Score]:
        found = self.detection.find(outputs)
        corners = self.preprocessing.placement(size).to_picture(found.corners).clip(0, size * 2)
        # What lies in the margin around the picture is no object of it.
        inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return [
            Score(self.package.labels[label], probability, (left, top, right, bottom))
            for (left, top, right, bottom), label, probability in zip(
                corners[inside].tolist(), found.labels[inside].tolist(), found.scores[inside].tolist(), strict=True
            )
        ]
