"""Writes a trained multi-layer perceptron as an ONNX graph that SageMaker Neo can read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto

#: Neo's documentation names ONNX 1.7: operator set 12, file format 7.
OPSET = 12
IR_VERSION = 7

Layer = tuple[NDArray[np.float64], NDArray[np.float64]]


def perceptron(
    name: str, input_name: str, input_shape: Sequence[int], output_name: str, layers: Sequence[Layer]
) -> "ModelProto":
    """Build the graph: flatten, then a matrix product a layer, with ReLU between them.

    Args:
        name: Name of the graph.
        input_name: Name of the float32 input.
        input_shape: Its shape, the batch first; fixed, because Neo compiles for one shape.
        output_name: Name of the float32 output, the logits: no softmax.
        layers: (weights of shape (inputs, outputs), bias of shape (outputs,)) of each layer, in order.

    Returns:
        The checked model; weights are rounded to float32.
    """
    from onnx import TensorProto, checker, helper, numpy_helper  # not part of `make setup`

    nodes = [helper.make_node("Flatten", [input_name], ["flat"], axis=1)]
    initializers = []
    value = "flat"
    for number, (weights, bias) in enumerate(layers):
        last = number == len(layers) - 1
        result = output_name if last else f"sum_{number}"
        initializers.append(numpy_helper.from_array(weights.astype(np.float32), f"weights_{number}"))
        initializers.append(numpy_helper.from_array(bias.astype(np.float32), f"bias_{number}"))
        nodes.append(helper.make_node("Gemm", [value, f"weights_{number}", f"bias_{number}"], [result]))
        value = result
        if not last:
            value = f"hidden_{number}"
            nodes.append(helper.make_node("Relu", [result], [value]))
    classes = layers[-1][1].shape[0]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [input_shape[0], classes])],
        initializers,
    )
    model = helper.make_model(
        graph, producer_name="edgewright", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(model, full_check=True)
    return model
