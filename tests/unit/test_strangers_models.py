"""Models in the shapes in which strangers have them: each becomes what it is, or an error says what helps."""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from config.places import MODELS
from edge_inference.models.package import ModelPackageError
from tools import model, model_init
from tools.model_init import ModelInitError, init

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
#: Name, element, shape in the graph, shape of the value, and what it holds: a factor of random values.
Output = tuple[str, int, Sequence[Any], Sequence[int], float]
PIXELS = ("--pixels", "0-1")
TENSORFLOW: list[Output] = [
    ("detection_boxes", FLOAT, ["n", 9, 4], [1, 9, 4], 1),
    ("detection_classes", FLOAT, ["n", 9], [1, 9], 1),
    ("detection_multiclass_scores", FLOAT, ["n", 9, 3], [1, 9, 3], 1),
    ("detection_scores", FLOAT, ["n", 9], [1, 9], 1),
    ("num_detections", FLOAT, ["n"], [1], 0),
    ("raw_detection_boxes", FLOAT, ["n", 50, 4], [1, 50, 4], 1),
    ("raw_detection_scores", FLOAT, ["n", 50, 3], [1, 50, 3], 1),
]


def saved(file: Path, inputs: Sequence[Any], outputs: Sequence[Any], nodes: Sequence[Any], **constants: Any) -> Path:
    weights = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    file.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    return file


def value(name: str, shape: Any, element: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def says(file: Path, shape: Sequence[Any], outputs: Sequence[Output], element: int = FLOAT) -> Path:
    """A model that says the same whatever it sees."""
    random = np.random.default_rng(0)
    held = {f"c{name}": (random.random(real) * scale).astype(np.float32) for name, _, _, real, scale in outputs}
    return saved(
        file,
        [value("x", shape, element)],
        [value(name, said, kind) for name, kind, said, _, _ in outputs],
        [helper.make_node("Cast", [f"c{name}"], [name], to=kind) for name, kind, _, _, _ in outputs],
        **held,
    )


def computes(file: Path, kind: str, *, inputs: Any = None, output: Any = None, **how: Any) -> Path:
    """A model of one operator on a row of four values."""
    given = [value("x", ["n", 4])] if inputs is None else inputs
    node = helper.make_node(kind, [each.name for each in given], ["y"], **how)
    return saved(file, given, [value("y", ["n", 4]) if output is None else output], [node])


def made(tmp_path: Path, *words: Any) -> tuple[dict[str, Any], list[str]]:
    parser = argparse.ArgumentParser()
    model_init.add_arguments(parser)
    flags = parser.parse_args([*map(str, words), "--stage", "none"])
    lines = list(init(flags, model.check, tmp_path / "models"))
    (folder,) = (tmp_path / "models").iterdir()
    return json.loads((folder / "model.json").read_text()), lines


@pytest.mark.parametrize(
    ("shape", "output"),
    [
        # As many classes as rows have values, and as grids of so small a picture have cells.
        (["n", 3, 224, 224], ("logits", FLOAT, ["n", 6], [1, 6], 1)),
        ([1, 3, 224, 224], ("logits", FLOAT, [1, 6], [1, 6], 1)),
        ([1, 1, 28, 28], ("Plus214_Output_0", FLOAT, [1, 10], [1, 10], 1)),
        (["n", 28, 28, 1], ("dense", FLOAT, ["n", 10], [1, 10], 1)),
        ([1, 3, 32, 32], ("logits", FLOAT, [1, 21], [1, 21], 1)),
        # All sizes free, as Optimum exports them.
        (["n", "c", "h", "w"], ("logits", FLOAT, ["n", 7], [1, 7], 1)),
    ],
)
def test_a_classifier_of_pictures_is_no_detector(tmp_path: Path, shape: list[Any], output: Output) -> None:
    file, count = says(tmp_path / "net.onnx", shape, [output]), output[3][-1]
    size = ("--size", "32x16") if "w" in shape else ()

    declared, _ = made(tmp_path, file, "--labels", count, *PIXELS, *size)

    assert declared["task"] == "image-classification"
    assert len(declared["labels"]) == count
    if size:
        assert declared["inputs"][0]["shape"] == [1, 3, 16, 32]


@pytest.mark.parametrize(
    ("side", "said", "real", "labels", "form"),
    [
        # Suppression is in the graph: a row is box, score and class, also of one or two labels.
        (640, [1, 300, 6], [1, 300, 6], 80, "rows"),
        (640, [1, 300, 6], [1, 300, 6], 2, "rows"),
        (640, [1, "n", 6], [1, 20, 6], 2, "rows"),
        # It is not: as many rows as there are cells, or more than suppression leaves.
        (640, [1, 8400, 6], [1, 8400, 6], 2, "grid"),
        (640, [1, "n", 6], [1, 25200, 6], 1, "grid"),
        (1280, [1, 34000, 6], [1, 34000, 6], 2, "grid"),
    ],
)
def test_six_values_are_a_row_or_a_grid_s_candidate(
    tmp_path: Path, side: int, said: list[Any], real: list[int], labels: int, form: str
) -> None:
    file = says(tmp_path / "yolo.onnx", [1, 3, side, side], [("output0", FLOAT, said, real, 1)])

    declared, _ = made(tmp_path, file, "--labels", labels, *PIXELS)

    assert declared["detection"]["form"] == form


@pytest.mark.parametrize(("found", "unit"), [(0.0, None), (0.9, "share"), (500.0, None)])
def test_boxes_of_nothing_do_not_say_their_unit(tmp_path: Path, found: float, unit: str | None) -> None:
    outputs: list[Output] = [
        ("num_dets", TensorProto.INT32, [1, 1], [1, 1], 0),
        ("det_boxes", FLOAT, [1, 9, 4], [1, 9, 4], found),
        ("det_scores", FLOAT, [1, 9], [1, 9], found and 1),
        ("det_classes", TensorProto.INT32, [1, 9], [1, 9], 0),
    ]

    declared, _ = made(tmp_path, says(tmp_path / "nms.onnx", [1, 3, 64, 64], outputs), "--labels", "3", *PIXELS)

    assert declared["detection"].get("unit") == unit


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_of_tensorflow_s_eight_outputs_the_final_ones_are_taken(tmp_path: Path, suffix: str) -> None:
    outputs = [(f"{each[0]}{suffix}", *each[1:]) for each in TENSORFLOW]
    file = says(tmp_path / "ssd.onnx", ["n", "h", "w", 3], outputs, UINT8)

    declared, _ = made(tmp_path, file, "--labels", "3", "--size", "64x48")

    taken = [declared["detection"][what] for what in ("boxes", "scores", "classes", "count")]
    wanted = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"]
    assert taken == [f"{name}{suffix}" for name in wanted]
    assert len(declared["outputs"]) == 4


@pytest.mark.parametrize(("last", "probabilities"), [("Identity", False), ("Sigmoid", True)])
def test_a_logit_between_0_and_1_is_none_the_less_a_logit(tmp_path: Path, last: str, *, probabilities: bool) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node(last, ["z"], ["y"])]
    weights = {"w": np.full((4, 1), 0.1, np.float32), "b": np.full(1, 0.2, np.float32)}
    file = saved(tmp_path / "binary.onnx", [value("x", ["n", 4])], [value("y", ["n", 1])], nodes, **weights)

    declared, lines = made(tmp_path, file, "--labels", "no,yes")

    assert declared.get("probabilities", False) is probabilities
    assert f"the output is taken for {'probabilities' if probabilities else 'logits'}" in lines


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_probabilities_of_eight_bits_are_probabilities(tmp_path: Path, classes: int) -> None:
    steps = [("Gemm", ["x", "w"], "z"), ("Softmax", ["z"], "p"), ("QuantizeLinear", ["p", "s", "zero"], "q")]
    nodes = [
        helper.make_node(kind, takes, [gives])
        for kind, takes, gives in [*steps, ("DequantizeLinear", ["q", "s", "zero"], "y")]
    ]
    weights: dict[str, Any] = {
        "w": np.random.default_rng(0).normal(size=(4, classes)).astype(np.float32),
        "s": np.float32(1 / 256),
        "zero": np.uint8(0),
    }
    file = saved(tmp_path / "eight.onnx", [value("x", ["n", 4])], [value("y", ["n", classes])], nodes, **weights)

    declared, _ = made(tmp_path, file, "--labels", classes)

    assert declared["probabilities"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "4", "--probabilities"), r"probabilities must be from 0 to 1, got .* to .*: leave out probab"),
        (("--labels", "yes", "--no-probabilities"), r"labels must be at least two, got one, which softmax makes"),
    ],
)
def test_what_would_be_no_probability_is_refused(tmp_path: Path, words: Sequence[str], message: str) -> None:
    count = 4 if "4" in words else 1
    weights = np.arange(4 * count, dtype=np.float32).reshape(4, count) - 1
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    held = {"w": weights, "b": np.full(count, 2, np.float32)}
    file = saved(tmp_path / "net.onnx", [value("x", ["n", 4])], [value("y", ["n", count])], nodes, **held)

    with pytest.raises(ModelPackageError, match=message):
        made(tmp_path, file, *words)

    assert not (tmp_path / "models").exists()


def test_eighty_labels_need_no_file(tmp_path: Path) -> None:
    labels = [f"a label of some length {number}" for number in range(80)]
    file = says(tmp_path / "net.onnx", [1, 3, 32, 32], [("y", FLOAT, [1, 80], [1, 80], 1)])

    declared, _ = made(tmp_path, file, "--labels", ",".join(labels), *PIXELS)

    assert declared["labels"] == labels


ZIPPED = helper.make_value_info(
    "y", helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
)
BFLOAT16 = TensorProto.BFLOAT16


def zipped(file: Path) -> Path:
    """As skl2onnx writes a classifier by default."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
    ]
    outputs = [value("label", ["n"], INT64), ZIPPED]
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 4])], outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return file


def external(file: Path, location: str) -> Path:
    """Its weights lie in a file of their own."""
    weights = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", ["n", 4])], [value("y", ["n", 4])], [weights])
    file.write_bytes(helper.make_model(graph, ir_version=10).SerializeToString())
    return file


def latin(folder: Path) -> Path:
    (folder / "latin.txt").write_bytes("grün\nb\nc\nd".encode("latin-1"))
    return folder / "latin.txt"


def of_names(file: Path, location: str) -> Path:
    (file.parent / location).write_bytes(np.ones(4, np.float32).tobytes())
    return external(file, location)


def softmax(file: Path) -> Path:
    return computes(file, "Softmax")


REFUSED: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "a list of maps": (zipped, ("--labels", "4"), r"options={'zipmap': False}, or --task tensors"),
    "labels of what is no classifier": (
        lambda file: says(file, [1, 3, 8, 8], [("a", FLOAT, [1, 7, 3], [1, 7, 3], 1)]),
        ("--labels", "4", *PIXELS),
        "--labels, --pixels must be left out with the task tensors, which the shapes look like: leave it out, or give",
    ),
    "pixels of a table": (softmax, ("--labels", "4", *PIXELS), "--pixels must be left out with the task tabular"),
    "a series of three values": (
        lambda file: says(file, ["n", 128, 3], [("y", FLOAT, ["n", 6], [1, 6], 1)]),
        ("--labels", "6"),
        "with the task tensors",
    ),
    "a batch of eight": (
        lambda file: says(file, [8, 3, 16, 16], [("y", FLOAT, [8, 4], [8, 4], 1)]),
        ("--labels", "4", *PIXELS),
        r"x must have a batch of 1, or a free one, got the shape \[8, 3, 16, 16\]: export it so",
    ),
    "another size than the graph's": (
        lambda file: says(file, [1, 3, 16, 32], [("y", FLOAT, [1, 4], [1, 4], 1)]),
        ("--labels", "4", "--size", "64x64", *PIXELS),
        "--size must be 32x16, as the graph has it, got 64x64",
    ),
    "pixels of bytes": (
        lambda file: says(file, [1, 3, 16, 16], [("y", FLOAT, [1, 4], [1, 4], 1)], UINT8),
        ("--labels", "4", "--pixels", "imagenet"),
        "--pixels must be 0-255 with an input of uint8, or left out, got imagenet",
    ),
    "a segmentation": (
        lambda file: says(file, [1, 3, 8, 8], [("y", FLOAT, [1, 4, 8, 8], [1, 4, 8, 8], 1)]),
        ("--labels", "4", *PIXELS),
        r"--labels must be 256, as many as y has values, got 4 .* for the shape \[1, 4, 8, 8\]: or --task tensors",
    ),
    "an output that is no tensor of a request": (
        lambda file: computes(file, "Cast", output=value("y", ["n", 4], BFLOAT16), to=BFLOAT16),
        ("--task", "tensors"),
        r"outputs must be tensors of float32, .*, got y \(tensor\(bfloat16\)\): export it with such",
    ),
    "an input that is no tensor of a request": (
        lambda file: computes(file, "Cast", inputs=[value("x", ["n", 4], BFLOAT16)], to=FLOAT),
        ("--task", "tensors"),
        r"inputs must be tensors of float32, .*, got x \(tensor\(bfloat16\)\): export it with such",
    ),
    "no input": (lambda file: computes(file, "Constant", inputs=[], value_floats=[1.0]), (), "inputs .* got none"),
    "labels in another encoding": (
        softmax,
        ("--labels", latin),
        r"--labels must be a file in UTF-8, got .*latin\.txt: .*: save it so",
    ),
    "a file of labels that is missing": (softmax, ("--labels", "lost.txt"), "got lost.txt, which is missing"),
    "a column twice": (softmax, ("--labels", "4", "--features", "a,b,a,c"), "each column once, twice there: a"),
    "weights that are missing": (
        lambda file: external(file, "w.data"), ("--labels", "4"), "put the file of its weights beside it",
    ),
    "weights where the declaration goes": (
        lambda file: of_names(file, "model.json"), ("--labels", "4"), "in a file of another name than model.json",
    ),
    "nothing": (lambda file: file.write_bytes(b"") or file, (), "it is no whole ONNX file: copy it anew"),
    "a pointer to a file": (lambda file: file.write_bytes(b"version https://git-lfs") and file, (), "git lfs pull"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_error_names_what_helps(tmp_path: Path, case: str) -> None:
    write, words, message = REFUSED[case]
    file = write(tmp_path / "m.onnx")

    with pytest.raises(ModelInitError, match=message):
        made(tmp_path, file, *(word(tmp_path) if callable(word) else word for word in words))

    assert not (tmp_path / "models").exists()


def test_what_no_answer_can_hold_is_said_to_be_left_out(tmp_path: Path) -> None:
    declared, lines = made(tmp_path, zipped(tmp_path / "forest.onnx"), "--task", "tensors")

    assert [each["name"] for each in declared["outputs"]] == ["label"]
    assert "left out, as no answer can hold it: y (seq(map(int64,tensor(float))))" in lines


@pytest.mark.parametrize("command", ["check", "preview"])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("Sqrt", '{"features": [-1, 1, 1, 1]}'),
        ("tensors", '{"inputs": {"x": [[-1, 1, 1, 1]]}}'),
    ],
)
def test_an_input_that_a_model_fails_on_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str, text: str
) -> None:
    words = ("--task", "tensors") if kind == "tensors" else ("--labels", "4")
    made(tmp_path, computes(tmp_path / "m.onnx", "Sqrt", inputs=[value("x", [1, 4])]), *words)
    page = ["--out", str(tmp_path / "page.html")] if command == "preview" else []

    assert model.main([command, str(tmp_path / "models" / "m"), text, *page]) == 1

    assert f"m: {text}: inference failed: ValueError: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "preview"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.json", b'{"features":'), ("list.json", b"[1]"), ("none.json", b'{"index": 99}'), ("empty.json", b""),
        ("cut.jpg", b"\xff\xd8\xff\xe0"), ("empty.jpg", b""), ("folder.jpg", None), ("missing.jpg", b"-"),
    ],
)  # fmt: skip
def test_of_several_inputs_the_one_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, content: bytes | None
) -> None:
    good, bad = tmp_path / "good.json", tmp_path / name
    good.write_text('{"index": 0}')
    if content is None:
        bad.mkdir()
    elif content != b"-":
        bad.write_bytes(content)
    page = ["--out", str(tmp_path / "page.html")] if command == "preview" else []

    assert model.main([command, str(MODELS / "iris"), str(good), str(bad), *page]) == 1

    assert f"iris: {name}: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "preview"])
@pytest.mark.parametrize(
    "labels",
    [np.array([0, 9]), np.array([0.5, 1]), np.array([0, -1]), np.array([1]), np.array(["a", "b"]), np.array([0, {}])],
    ids=["beyond", "fractions", "negative", "too few", "texts", "objects"],
)
def test_labels_of_samples_that_stand_for_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, labels: Any
) -> None:
    folder = tmp_path / "iris"
    shutil.copytree(MODELS / "iris", folder)
    declared = json.loads((folder / "model.json").read_text())
    declared.pop("reference", None)
    (folder / "model.json").write_text(json.dumps(declared))
    np.savez(folder / "samples.npz", rows=np.ones((2, 4), np.float32), labels=labels)
    page = ["--out", str(tmp_path / "page.html")] if command == "preview" else []

    assert model.main([command, str(folder), *page]) == 1

    assert "samples.npz: labels must be " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "preview"])
def test_objects_of_samples_that_have_another_shape_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = tmp_path / "digit-detector"
    shutil.copytree(MODELS / "digit-detector", folder)
    declared = json.loads((folder / "model.json").read_text())
    declared.pop("reference", None)
    (folder / "model.json").write_text(json.dumps(declared))
    with np.load(folder / "samples.npz") as arrays:
        np.savez(folder / "other.npz", images=arrays["images"][:1], objects=np.ones((2, 5)))
    (folder / "other.npz").replace(folder / "samples.npz")
    page = ["--out", str(tmp_path / "page.html")] if command == "preview" else []

    assert model.main([command, str(folder), *page]) == 1

    assert "samples.npz: objects must have the shape (count, 6), got (2, 5)" in capsys.readouterr().err
