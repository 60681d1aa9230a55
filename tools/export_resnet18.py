"""Makes the image classifier: ResNet-18 from torchvision, or a narrow one with random weights that says so.

python -m tools.export_resnet18 [--output edge_assets/models/image-classification] [--weights pretrained|random|narrow]
                                 [--trace]

`narrow`, the default, needs `make setup-dev`: the same graph with 8 instead of 64 channels, 1 MB instead of 47 MB.
`pretrained` and `random` need `make setup-model` and are run by `.venv-model/bin/python`. The former needs the network,
too; without that it becomes the latter.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

from tools.model_folder import declaration_text
from tools.onnx_graphs import CLASSES, INPUT, OPSET, resnet18
from tools.set_up import require

FOLDER = Path(__file__).resolve().parents[1] / "edge_assets" / "models" / "image-classification"
NARROW_WIDTH = 8
PRETRAINED, RANDOM, NARROW = "pretrained", "random", "narrow"
NOTICE = "random weights: the labels mean nothing"


def torch_model(weights: str, traced: Path | None = None) -> tuple[bytes, list[str], str]:
    """Export torchvision's ResNet-18.

    Args:
        weights: `pretrained` or `random`; without network the former becomes the latter.
        traced: Where to write the same network as a traced module, too, for Neo; None for not at all.

    Returns:
        ONNX, labels, and the notice for every output, empty for pretrained weights.
    """
    import torch
    from torchvision.models import ResNet18_Weights
    from torchvision.models import resnet18 as network

    torch.manual_seed(0)  # the same random weights at every run
    chosen: Any = ResNet18_Weights.IMAGENET1K_V1 if weights == PRETRAINED else None
    try:
        model = network(weights=chosen)
    except (URLError, OSError) as exc:
        print(f"no pretrained weights ({exc}): taking random ones", file=sys.stderr)
        chosen = None
        torch.manual_seed(0)
        model = network(weights=None)
    if traced is not None:
        torch.jit.save(torch.jit.trace(model.eval(), torch.zeros(INPUT)), str(traced))
    output = io.BytesIO()
    torch.onnx.export(
        model.eval(),
        (torch.zeros(INPUT),),
        output,
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamo=False,
    )
    if chosen is None:
        return output.getvalue(), random_labels(), NOTICE
    return output.getvalue(), list(chosen.meta["categories"]), ""


def random_labels() -> list[str]:
    """Name the classes of a network that has learned nothing."""
    return [f"class {number}" for number in range(CLASSES)]


#: The traced module's name, and its input's: PyTorch's have none, Neo counts them.
TRACED, TRACED_INPUT = "model.pt", "input0"


def declaration(labels: Sequence[str], notice: str, *, traced: bool = False) -> dict[str, Any]:
    """Compose the model's declaration.

    Args:
        labels: In the order of the classes.
        notice: What every output must say; empty for nothing.
        traced: Whether there is a traced module for Neo beside the ONNX model.

    Returns:
        The content of model.json.
    """
    return {
        "name": "image-classification",
        "description": "ResNet-18 with ImageNet's pre-processing" + (f"; {notice}" if notice else ""),
        "task": "image-classification",
        "framework": "ONNX",
        "source": "model.onnx",
        "extras": ["image.jpg"],
        "inputs": [{"name": "image", "dtype": "float32", "shape": list(INPUT)}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, len(labels)]}],
        "preprocessing": {
            "width": INPUT[3],
            "height": INPUT[2],
            "mode": "RGB",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "resize": 256,
        },
        **({"notice": notice} if notice else {}),
        **({"compilation": _compilation()} if traced else {}),
        "serving": {
            "topK": 5,
            "threshold": 0.3,
            "ImageName": "image.jpg",
            "InferenceInterval": 3600,
            "PublishResultsOnTopic": "gg/sageMakerEdgeManager/image-classification/{stage}",
            "resultFormat": "edge-manager",
        },
        "labels": list(labels),
    }


def _compilation() -> dict[str, Any]:
    inputs = [{"name": TRACED_INPUT, "shape": list(INPUT)}]
    return {"framework": "PYTORCH", "frameworkVersion": "1.12", "source": TRACED, "inputs": inputs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and write model.onnx, model.json and image.jpg.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 written; 2, at once, where a package is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.export_resnet18", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--weights",
        choices=(PRETRAINED, RANDOM, NARROW),
        default=NARROW,
        help="what it has learnt (default: %(default)s)",
    )
    parser.add_argument(
        "--trace", action="store_true", help="also write model.pt for Neo, and name it in model.json (not with narrow)"
    )
    options = parser.parse_args(arguments)
    output: Path = options.output
    if options.trace and options.weights == NARROW:
        parser.error("--trace needs torch's network: --weights random or pretrained, got narrow")
    if options.weights == NARROW:
        require(parser.prog, "dev", "onnx", "sklearn", "PIL")
        content = resnet18(NARROW_WIDTH).SerializeToString(deterministic=True)
        labels, notice = random_labels(), NOTICE
    else:
        require(f"{parser.prog} --weights {options.weights}", "model", "torch", "torchvision", "sklearn", "PIL")
        output.mkdir(parents=True, exist_ok=True)
        content, labels, notice = torch_model(options.weights, output / TRACED if options.trace else None)
    output.mkdir(parents=True, exist_ok=True)
    (output / "model.onnx").write_bytes(content)
    declared = declaration(labels, notice, traced=options.trace)
    (output / "model.json").write_text(declaration_text(declared), encoding="utf-8")
    picture = output / "image.jpg"
    if not picture.exists():
        from PIL import Image
        from sklearn.datasets import load_sample_image

        # A photograph that scikit-learn ships, by its credits under CC BY.
        Image.fromarray(load_sample_image("china.jpg")).save(picture, quality=80)
    print(f"{output}: {len(content) / 1e6:.1f} MB, {notice or 'pretrained on ImageNet'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
