"""Well-known image networks with random weights: right in shape, size and cost, meaningless in what they answer.

Sources of the shapes: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1; Sandler et al.,
"MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), table 2.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

CLASSES = 1000
INPUT = (1, 3, 224, 224)
#: Expansion, channels, repetitions, stride of each stage of MobileNetV2.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def resnet18(width: int = 64, classes: int = CLASSES, seed: int = 0) -> "ModelProto":
    """Build ResNet-18.

    Args:
        width: Channels of the first stage: 64 in the paper (11.7 million weights); 8 has 1/64 of the cost.
        classes: Size of the output.
        seed: Of the weights.

    Returns:
        float32 input `image`, output `logits`.
    """
    from tools.onnx_graphs import ConvolutionGraph  # onnx is not part of `make setup`

    graph = ConvolutionGraph(seed)
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
    graph.classes(value, channels, classes, spread=4.0, output="logits")
    return graph.model("resnet18", INPUT, classes, "logits")


def mobilenet_v2(classes: int = CLASSES, seed: int = 0) -> "ModelProto":
    """Build MobileNetV2 with 3.5 million weights.

    Args:
        classes: Size of the output.
        seed: Of the weights.

    Returns:
        float32 input `image`, output `logits`.
    """
    from tools.onnx_graphs import ConvolutionGraph  # onnx is not part of `make setup`

    graph = ConvolutionGraph(seed)
    value = graph.relu6(graph.convolution("image", 3, 32, 3, stride=2))
    channels = 32
    for expansion, outputs, repetitions, first_stride in BOTTLENECKS:
        for repetition in range(repetitions):
            stride = first_stride if repetition == 0 else 1
            inner, hidden = value, channels * expansion
            if expansion > 1:
                inner = graph.relu6(graph.convolution(inner, channels, hidden, 1))
            inner = graph.relu6(graph.convolution(inner, hidden, hidden, 3, stride=stride, groups=hidden))
            inner = graph.convolution(inner, hidden, outputs, 1)
            value = graph.add(value, inner, scale=0.5) if stride == 1 and channels == outputs else inner
            channels = outputs
    value = graph.relu6(graph.convolution(value, channels, 1280, 1))
    graph.classes(value, 1280, classes, spread=4.0, output="logits")
    return graph.model("mobilenet_v2", INPUT, classes, "logits")
