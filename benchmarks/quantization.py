"""Static quantisation of ONNX models to 8-bit whole numbers, as devices run them fastest."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import version_converter


class Calibration:
    """Hands inputs to the quantiser, one at a time; see onnxruntime's CalibrationDataReader.

    Args:
        name: Name of the model's input.
        inputs: Typical inputs, each in the model's shape.
    """

    def __init__(self, name: str, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._name = name
        self._inputs: Iterator[NDArray[np.float32]] = iter(inputs)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input by its name; None behind the last one."""
        values = next(self._inputs, None)
        return None if values is None else {self._name: values}


def quantize(model: bytes, name: str, inputs: Sequence[NDArray[np.float32]]) -> bytes:
    """Quantise weights and activations (QDQ, a scale a channel, symmetric weights).

    Args:
        model: An ONNX model with one float32 input.
        name: The input's name.
        inputs: Typical inputs, from which the ranges of the activations follow.

    Returns:
        The ONNX model; inputs and outputs stay float32.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(Calibration, CalibrationDataReader):  # type: ignore[misc] # the library is untyped
        pass

    settings: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (Path(folder) / f"{step}.onnx" for step in ("plain", "prepared", "small"))
        # A scale a channel came with operator set 13.
        onnx.save(version_converter.convert_version(onnx.load_model_from_string(model), 13), plain)
        quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(small), Reader(name, inputs), **settings)
        return small.read_bytes()
