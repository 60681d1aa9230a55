"""The digit model: what is committed, what training makes, and that both are what they claim."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_inference.messages import Request
from edge_inference.models.runtime import load
from edge_inference.models.store import load_workload
from tests.edge.digit_picture import digit_png
from tests.edge.model_folder import DIGITS, make_package


@pytest.fixture(scope="module")
def committed_accuracy(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Share of held-out pictures that the component recognises, as clients send them."""
    classifier = load_workload(make_package(tmp_path_factory.mktemp("model") / "package"), load)
    with np.load(DIGITS / "samples.npz") as samples:
        images, labels = samples["images"], samples["labels"]
    answers = [classifier.predict(Request(None, image=digit_png(image)), 1).scores[0].label for image in images]
    return float(np.mean([answer == str(label) for answer, label in zip(answers, labels, strict=True)]))


def test_recognises_97_of_100_held_out_pictures(committed_accuracy: float) -> None:
    assert committed_accuracy >= 0.97


def test_training_again_gives_the_same_accuracy(committed_accuracy: float, tmp_path: Path) -> None:
    from tools import train_digits  # not above: every worker reads this file, and scikit-learn takes a second to import

    split = train_digits.split_digits()

    layers = train_digits.train(split.train_images, split.train_labels)

    again = train_digits.accuracy(layers, split.held_out_images, split.held_out_labels)
    assert again == pytest.approx(committed_accuracy, abs=0.01)


def test_samples_are_the_data_sets_own_images_that_training_does_not_see() -> None:
    from sklearn.datasets import load_digits

    from tools import train_digits

    split = train_digits.split_digits()

    with np.load(DIGITS / "samples.npz") as samples:
        images, labels = samples["images"], samples["labels"]

    np.testing.assert_array_equal(images, split.held_out_images)
    np.testing.assert_array_equal(labels, split.held_out_labels)
    assert len(images) >= 100
    assert len(split.train_images) + len(images) == len(load_digits().images)
    assert np.bincount(labels).min() >= 30


def test_the_graph_is_one_that_neo_reads_and_model_json_describes_it() -> None:
    model = onnx.load(DIGITS / "model.onnx")
    declared = json.loads((DIGITS / "model.json").read_text())

    onnx.checker.check_model(model, full_check=True)

    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 12)]
    assert model.ir_version <= 7
    for tensors, found in ((declared["inputs"], model.graph.input), (declared["outputs"], model.graph.output)):
        shapes = [[size.dim_value for size in tensor.type.tensor_type.shape.dim] for tensor in found]
        assert [(tensor["name"], tensor["shape"]) for tensor in tensors] == [
            (tensor.name, shape) for tensor, shape in zip(found, shapes, strict=True)
        ]


def test_a_picture_must_be_a_digit_of_the_data_set() -> None:
    with pytest.raises(ValueError, match="from 0 to 16, got 0 to 17"):
        digit_png(np.array([[0, 17]]))
    with pytest.raises(ValueError, match="shape"):
        digit_png(np.zeros(64))
