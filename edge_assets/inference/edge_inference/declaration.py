"""What a model's declaration says: task, inputs and outputs, labels, pre-processing."""

from dataclasses import dataclass
from pathlib import Path

from edge_inference.preprocessing import Preprocessing

#: The portable form of a model; a compiled one may lie beside it.
MODEL_FILE = "model.onnx"
DTYPE = "float32"
IMAGES, TABLES, TENSORS = "image-classification", "tabular-classification", "tensors"
TASKS = (IMAGES, TABLES, TENSORS)
#: What ONNX Runtime calls the types that a declaration may name.
DTYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int16": "tensor(int16)",
    "int8": "tensor(int8)",
    "uint64": "tensor(uint64)",
    "uint32": "tensor(uint32)",
    "uint16": "tensor(uint16)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
#: A size that is free, such as the batch of a model with dynamic batch.
FREE = -1


class ModelPackageError(Exception):
    """A package that must not be used; the text names the file, the rule and what was found."""


@dataclass(frozen=True)
class Tensor:
    """Name, shape and type of a model's input or output; a size of -1 is free."""

    name: str
    shape: tuple[int, ...]
    dtype: str = DTYPE


@dataclass(frozen=True)
class ModelPackage:
    """A package whose files are the ones that its manifest describes.

    Args:
        folder: Where it is unpacked.
        name: Name of the model.
        version: Version of the package.
        task: What the model does, one of `TASKS`.
        inputs: One for the classifying tasks, at least one for tensors.
        outputs: One for the classifying tasks: a value a label, or one value for two labels; at least one for tensors.
        labels: In the order of the classes; none for tensors.
        preprocessing: From pixels to the input; None unless the task is image classification.
        samples: File of held-out samples and the value in it that stands for 1.0; None without samples.
        features: Names of a table's columns; empty unless the task is tabular classification.
        probabilities: Whether the output holds probabilities already instead of logits.
        notice: What every answer must say of the model, such as that its weights are random; mostly empty.
        signed: Whether its signature was checked; False where the device has no signing key.
    """

    folder: Path
    name: str
    version: str
    task: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    samples: tuple[Path, float] | None
    features: tuple[str, ...] = ()
    probabilities: bool = False
    notice: str = ""
    signed: bool = False

    @property
    def model_input(self) -> Tensor:
        """The first input, the only one of a classifying model."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The first output, the only one of a classifying model."""
        return self.outputs[0]

    @property
    def model_file(self) -> Path:
        """The ONNX model."""
        return self.folder / MODEL_FILE
