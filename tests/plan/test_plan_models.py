"""A plan says what a changed model says of its held-out inputs, and shows what it says otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from tests.edge.file_bench import digit
from tests.edge.model_folder import DIGITS
from tests.unit.kept_page import assert_kept
from tools.plan import as_page
from tools.plan_models import SHOWN, ModelChange, as_lines, as_markdown, as_section, changed_models

#: Every zero and every one gets the other's label.
WRONG = ["1", "0", *map(str, range(2, 10))]


@pytest.fixture
def checkouts(tmp_path: Path) -> list[Path]:
    """Two checkouts with the committed models of digits and iris."""
    found = [tmp_path / which for which in ("before", "after")]
    for root in found:
        for name in ("digits", "iris"):
            shutil.copytree(DIGITS.parent / name, root / "edge_assets" / "models" / name)
    return found


def declare(root: Path, **changes: Any) -> None:
    file = root / "edge_assets" / "models" / "digits" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def compared(checkouts: list[Path], captures: Path | None = None) -> list[ModelChange]:
    return changed_models(checkouts[0], checkouts[1], ["digits", "iris", "gone"], captures)


def test_models_that_do_not_change_are_not_run(checkouts: list[Path]) -> None:
    assert compared(checkouts) == []
    assert as_markdown([]) == as_section([]) == ""


def test_a_changed_model_is_compared_on_its_held_out_inputs(checkouts: list[Path]) -> None:
    declare(checkouts[1], labels=WRONG)

    (change,) = compared(checkouts)

    # Of 360 samples 36 are zeros and 36 are ones, and some are wrong before, too.
    assert (change.name, change.problem, change.inputs, change.source) == ("digits", "", 360, "held out")
    assert 360 - change.agreed in range(65, 80)
    assert change.labelled == 360
    # What a sample is, the new model's labels say: with those a zero "is" a one, and the former model is wrong.
    assert change.right[1] > 340
    assert change.right[0] in range(270, 295)
    assert len(change.changed) == SHOWN
    assert {each.before[0] for each in change.changed} <= {"0", "1"}
    assert all(each.picture and each.picture.startswith(b"\x89PNG") for each in change.changed)


def test_the_plan_says_it_in_the_terminal_in_markdown_and_on_the_page(checkouts: list[Path]) -> None:
    declare(checkouts[1], labels=WRONG)
    changes = compared(checkouts)

    lines = list(as_lines(changes))
    markdown = as_markdown(changes)
    page = assert_kept(as_page(f"### Fleet plan: dev\n\n{markdown}", "now and then", as_section(changes)))

    assert lines[0].startswith(f"model digits changes: agrees on {changes[0].agreed} of 360 held out inputs, right ")
    assert len(lines) == 1 + SHOWN
    assert f"| `digits` | 360 held out | {changes[0].agreed / 360:.1%} | " in markdown
    assert len(page.all("img")) == SHOWN
    assert len(page.all("table")) == 2
    assert "Pictures that changed their label" in page.text
    assert "picture" not in json.dumps([each.as_dict() for each in changes])


def test_captured_inputs_take_the_place_of_samples(checkouts: list[Path], tmp_path: Path) -> None:
    declare(checkouts[1], labels=WRONG)
    captures = tmp_path / "captures"
    captures.mkdir()
    for number in range(12):
        record = {"id": f"r{number}", "model": {"name": "digits"}, "picture": f"r{number}.png", "label": "0"}
        # As in the bucket: a record a line, and the picture beside it.
        (captures / f"r{number}.jsonl").write_text(f"{json.dumps(record)}\n")
        (captures / f"r{number}.png").write_bytes(digit(number))
    (captures / "other.json").write_text(json.dumps({"id": "x", "model": {"name": "iris"}, "input": {}}))
    (captures / "lost.json").write_text(json.dumps({"id": "y", "model": {"name": "digits"}, "picture": "../gone.png"}))
    (captures / "odd.json").write_text("[]")

    (change,) = compared(checkouts, captures)

    assert (change.inputs, change.source, change.labelled) == (12, "captured", 12)


def test_a_captured_picture_that_is_cut_off_costs_no_comparison(checkouts: list[Path], tmp_path: Path) -> None:
    declare(checkouts[1], labels=WRONG)
    captures = tmp_path / "captures"
    captures.mkdir()
    contents = [digit(0), digit(1)[:40], b"", b"GIF89a", digit(2)]
    for number, content in enumerate(contents):
        record = {"id": f"r{number}", "model": {"name": "digits"}, "picture": f"r{number}.png"}
        (captures / f"r{number}.json").write_text(json.dumps(record))
        (captures / f"r{number}.png").write_bytes(content)

    (change,) = compared(checkouts, captures)
    for number in (0, 4):
        (captures / f"r{number}.png").write_bytes(b"")
    (none,) = compared(checkouts, captures)

    assert (change.problem, change.inputs, change.unread) == ("", 2, 3)
    assert "of 2 captured (3 more cannot be read) inputs" in next(iter(as_lines([change])))
    assert "| 2 captured (3 more cannot be read) |" in as_markdown([change])
    assert none.problem == "none of 5 captured inputs can be read"


def gather(root: Path, labels: list[str], categories: int) -> None:
    """A table of two categories; one that it does not know ends the graph's run with an error of the runtime's own."""
    folder = root / "edge_assets" / "models" / "parts"
    folder.mkdir()
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["W", "i"], ["g"], axis=0),
        helper.make_node("ReduceMean", ["g"], ["y"], axes=[1], keepdims=0),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in (("x", 2), ("y", 3)))
    weights = numpy_helper.from_array(np.eye(categories, 3, dtype=np.float32), "W")
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    declared: dict[str, Any] = {"name": "parts", "task": "tabular-classification", "framework": "ONNX"}
    declared |= {"source": "model.onnx", "features": ["a", "b"], "labels": labels}
    declared |= {"inputs": [{"name": "x", "dtype": "float32", "shape": [1, 2]}]}
    declared |= {"outputs": [{"name": "y", "dtype": "float32", "shape": [1, 3]}]}
    (folder / "model.json").write_text(json.dumps(declared))


def test_a_captured_row_that_the_one_before_cannot_answer_costs_no_comparison(
    checkouts: list[Path], tmp_path: Path
) -> None:
    gather(checkouts[0], ["p", "q", "r"], 3)
    gather(checkouts[1], ["p", "q", "R"], 2)
    captures = tmp_path / "captures"
    captures.mkdir()
    rows: list[Any] = [[0, 1], [1, 7], [0], [10**400, 1], [None, 1]]
    for number, row in enumerate(rows):
        record = {"id": f"r{number}", "model": {"name": "parts"}, "input": {"features": row}}
        (captures / f"r{number}.json").write_text(json.dumps(record))
    (captures / "deep.json").write_text("[" * 100_000)

    (change,) = changed_models(checkouts[0], checkouts[1], ["parts"], captures)
    (captures / "r0.json").write_text((captures / "r1.json").read_text())
    (none,) = changed_models(checkouts[0], checkouts[1], ["parts"], captures)
    (captures / "r1.json").write_text((captures / "r1.json").read_text().replace("[1, 7]", "[1, 2]"))
    (worse,) = changed_models(checkouts[0], checkouts[1], ["parts"], captures)

    assert (change.problem, change.inputs, change.unread) == ("", 1, 4)
    assert none.problem == "the one before answers none of 5 captured inputs"
    # What the new one alone cannot do is no fault of the input.
    assert worse.problem.startswith("r1: inference failed: InvalidArgument: ")


def test_a_model_that_was_for_tensors_is_told_and_the_plan_goes_on(checkouts: list[Path]) -> None:
    folder = checkouts[0] / "edge_assets" / "models" / "digits"
    declared = json.loads((folder / "model.json").read_text())
    kept = ("name", "framework", "source", "inputs", "outputs")
    (folder / "model.json").write_text(json.dumps({**{key: declared[key] for key in kept}, "task": "tensors"}))

    (change,) = compared(checkouts)

    assert change.problem == "tensors have no held-out inputs"


def test_samples_whose_labels_stand_for_none_are_told_and_the_plan_goes_on(checkouts: list[Path]) -> None:
    for root in checkouts:
        file = root / "edge_assets" / "models" / "digits" / "samples.npz"
        with np.load(file) as arrays:
            np.savez(file.with_name("other.npz"), images=arrays["images"][:2], labels=np.array([0, 10]))
        file.with_name("other.npz").replace(file)
    declare(checkouts[1], labels=WRONG)

    (change,) = compared(checkouts)

    assert "samples.npz: labels must be 2 whole numbers from 0 to 9" in change.problem


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda root: declare(root, outputs=[{"name": "x", "dtype": "float32", "shape": [1, 10]}]), "must be named"),
        (lambda root: declare(root, labels=["one"]), "one value a label"),
        (lambda root: declare(root, serving={"captureShare": 7}), "captureShare must be a number from 0 to 1"),
        (lambda root: (root / "edge_assets/models/digits/model.onnx").write_bytes(b""), "does not load"),
    ],
)
def test_a_model_that_cannot_be_compared_is_told_and_the_plan_goes_on(
    checkouts: list[Path], break_it: Any, told: str
) -> None:
    break_it(checkouts[1])

    (change,) = compared(checkouts)

    assert told in change.problem
    assert told in as_markdown([change])
    assert list(as_lines([change])) == [f"model digits changes: not compared: {change.problem}"]


def test_without_inputs_nothing_is_compared(checkouts: list[Path], tmp_path: Path) -> None:
    declare(checkouts[1], labels=WRONG)

    (tmp_path / "empty").mkdir()

    (change,) = compared(checkouts, tmp_path / "empty")

    assert change.problem == "no inputs are captured: name samples, or give --captures"


def test_a_label_is_no_markup() -> None:
    text = as_markdown([ModelChange("digits", problem="label `|<b>|\n` is odd")])

    assert "`label '/<b>/ ' is odd`" in text
    assert text.count("\n") == 6
