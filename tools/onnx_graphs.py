"""ONNX graphs, layer by layer: a trained perceptron that SageMaker Neo can read, convolutions with random weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# onnx is not part of `make setup`: what needs it imports it.
if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

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
    from onnx import helper, numpy_helper

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
    return _checked(name, nodes, initializers, (input_name, input_shape), (output_name, layers[-1][1].shape[0]))


def _checked(
    name: str,
    nodes: "list[NodeProto]",
    weights: "list[TensorProto]",
    wanted: tuple[str, Sequence[int]],
    output: tuple[str, int],
) -> "ModelProto":
    """A model of one float32 input (name and shape) and one float32 output (name and classes)."""
    from onnx import TensorProto, helper

    (input_name, shape), (output_name, classes) = wanted, output
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, [shape[0], classes])],
        weights,
    )
    return checked(graph)


def checked(graph: "GraphProto") -> "ModelProto":
    """A model of a graph, checked."""
    from onnx import checker, helper

    model = helper.make_model(
        graph, producer_name="edgewright", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    checker.check_model(model, full_check=True)
    return model


class ConvolutionGraph:
    """A graph under construction; each method adds one layer behind a value and names the new one.

    Batch normalisation is not written: at inference it is a factor and an addend of the convolution before it.

    Args:
        seed: Of the weights.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def convolution(self, value: str, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> str:
        """Add a square convolution with bias that keeps width and height at stride 1."""
        fan_in = inputs // groups * size * size
        weights = self._random.normal(0, np.sqrt(2 / fan_in), (outputs, inputs // groups, size, size))
        return self._node(
            "Conv",
            [value, self._constant(weights), self._constant(self._random.normal(0, 0.05, outputs))],
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
            group=groups,
        )

    def relu(self, value: str) -> str:
        """Add a rectifier."""
        return self._node("Relu", [value])

    def max_pool(self, value: str) -> str:
        """Halve width and height by the maximum of 3x3 pixels."""
        return self._node("MaxPool", [value], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])

    def add(self, first: str, second: str, scale: float = 1.0) -> str:
        """Add two values; the scale of the second keeps random networks from growing with their depth."""
        if scale != 1.0:
            second = self._node("Mul", [second, self._constant(np.array(scale))])
        return self._node("Add", [first, second])

    def classes(self, value: str, inputs: int, count: int, spread: float, output: str) -> None:
        """Add the head: average over all pixels, then a matrix product whose logits have about a given spread."""
        from onnx import helper

        pooled = self._node("Flatten", [self._node("GlobalAveragePool", [value])], axis=1)
        weights = self._random.normal(0, spread / np.sqrt(inputs), (inputs, count))
        self._nodes.append(
            helper.make_node("Gemm", [pooled, self._constant(weights), self._constant(np.zeros(count))], [output])
        )

    def model(self, name: str, input_shape: Sequence[int], classes: int, output: str) -> "ModelProto":
        """Finish the graph.

        Args:
            name: Name of the graph.
            input_shape: Of the float32 input `image`.
            classes: Size of the output.
            output: Name of the output, as given to `classes`.

        Returns:
            The checked model.
        """
        return _checked(name, self._nodes, self._weights, ("image", input_shape), (output, classes))

    def _constant(self, values: NDArray[np.floating]) -> str:
        from onnx import numpy_helper

        name = f"weights_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: object) -> str:
        from onnx import helper

        output = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output


CLASSES = 1000
INPUT = (1, 3, 224, 224)


def resnet18(width: int = 64) -> "ModelProto":
    """Build ResNet-18.

    Args:
        width: Channels of the first stage: 64 in the paper (11.7 million weights); 8 has 1/64 of the cost.

    Returns:
        float32 input `image`, output `logits`.
    """
    graph = ConvolutionGraph(seed=0)
    value = graph.max_pool(graph.relu(graph.convolution("image", 3, width, 7, stride=2)))
    channels = width
    for stage in range(4):
        for block in range(2):
            outputs = width << stage
            stride = 2 if stage and not block else 1
            inner = graph.relu(graph.convolution(value, channels, outputs, 3, stride=stride))
            inner = graph.convolution(inner, outputs, outputs, 3)
            shortcut = value if channels == outputs else graph.convolution(value, channels, outputs, 1, stride=stride)
            value = graph.relu(graph.add(shortcut, inner, scale=0.3))
            channels = outputs
    graph.classes(value, channels, CLASSES, spread=4.0, output="logits")
    return graph.model("resnet18", INPUT, CLASSES, "logits")
