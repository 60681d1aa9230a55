"""Models that the devices' ONNX Runtime cannot load are refused where they are declared."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from config.kept_answers import KeptAnswers
from edge_constructs import model_runtime
from edge_constructs.model_runtime import (
    LIMITS,
    Header,
    check_model,
    device_runtime,
    read_header,
    unlike_on_openvino,
    weight_files,
)
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from tools import model as model_tool

IR, OPSETS = LIMITS[device_runtime()]


def write(
    folder: Path,
    operator: str = "Identity",
    *,
    domain: str = "",
    ir: int = 10,
    opsets: Sequence[tuple[str, int]] = (("", 20),),
    types: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    **attributes: Any,
) -> ModelSource:
    """A model of one operator, as a folder that was read."""
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, **attributes)
    x, y = (helper.make_tensor_value_info(name, kind, [1, 1]) for name, kind in zip("xy", types, strict=True))
    graph = helper.make_graph([node], "graph", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(*each) for each in opsets], ir_version=ir)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    declaration = {"framework": "ONNX", "source": "model.onnx"}
    return ModelSource(folder.name, declaration, {"model.onnx": folder / "model.onnx"})


SCALER: dict[str, Any] = {"domain": "ai.onnx.ml", "operator": "Scaler", "offset": [0.0], "scale": [1.0]}


def test_the_limits_are_those_of_the_release_that_devices_have(tmp_path: Path) -> None:
    """The lock moves: so must the table, which the installed release of the same version proves."""
    at_most = [
        write(tmp_path / "ir", ir=IR),
        write(tmp_path / "opset", opsets=[("", OPSETS[""])]),
        write(tmp_path / "ml", **SCALER, opsets=[("", 20), ("ai.onnx.ml", OPSETS["ai.onnx.ml"])]),
    ]
    above = [
        write(tmp_path / "ir-above", ir=IR + 1),
        write(tmp_path / "opset-above", opsets=[("", OPSETS[""] + 1)]),
        write(tmp_path / "ml-above", **SCALER, opsets=[("", 20), ("ai.onnx.ml", OPSETS["ai.onnx.ml"] + 1)]),
    ]
    engine = model_runtime.installed_runtime()

    assert engine is not None
    assert engine.__version__ == device_runtime()
    for source in at_most:
        engine.InferenceSession(str(source.files["model.onnx"]), providers=["CPUExecutionProvider"])
        check_model(source)
    for source in above:
        with pytest.raises(Exception, match=r"IR version|opset"):
            engine.InferenceSession(str(source.files["model.onnx"]), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ir": 15}, "its IR version is 15, at most 14 is taken: set model.ir_version = 14 before onnx.save"),
        ({"opsets": [("", 29)]}, "its opset version of ai.onnx is 29, at most 28 .*: export with opset_version=28 "),
        (
            {**SCALER, "opsets": [("", 20), ("ai.onnx.ml", 6)]},
            "opset version of ai.onnx.ml is 6, at most 5 .*target_opset={'': 28, 'ai.onnx.ml': 5}",
        ),
    ],
)
def test_a_format_that_is_too_new_is_told_with_the_export_setting_with_and_without_the_runtime(
    changes: dict[str, Any], told: str, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setattr(model_runtime, "installed_runtime", lambda: None)

    with pytest.raises(
        ModelDeclarationError, match=rf"new/model\.onnx: must load with ONNX Runtime {device_runtime()}, .*{told}"
    ):
        check_model(write(tmp_path / "new", **changes))


DOUBLE, BRAIN = TensorProto.DOUBLE, TensorProto.BFLOAT16
TREE: dict[str, Any] = {
    "domain": "ai.onnx.ml",
    "operator": "TreeEnsembleRegressor",
    "opsets": [("", 20), ("ai.onnx.ml", 1)],
    "n_targets": 1,
    "nodes_treeids": [0],
    "nodes_nodeids": [0],
    "nodes_featureids": [0],
    "nodes_modes": ["LEAF"],
    "nodes_values": [0.0],
    "nodes_truenodeids": [0],
    "nodes_falsenodeids": [0],
    "target_treeids": [0],
    "target_nodeids": [0],
    "target_ids": [0],
    "target_weights": [1.0],
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        # What skl2onnx writes of a tree with a float64 sample: onnx' own checker takes it.
        (
            {**TREE, "types": (DOUBLE, DOUBLE)},
            r"tensor\(double\).*: export in float32: to_onnx\(model, rows\[:1\]\.astype",
        ),
        (
            {"operator": "Elu", "types": (DOUBLE, DOUBLE)},
            r"Could not find an implementation for Elu.*: export in float32",
        ),
        ({"operator": "Relu", "types": (BRAIN, BRAIN)}, r"Could not find an implementation for Relu"),
        (
            {"operator": "Tokenize", "domain": "my.ops", "opsets": [("", 20), ("my.ops", 1)]},
            r"my\.ops:Tokenize\(-1\) is not a registered function/op: export with standard operators",
        ),
        ({"operator": "Frobnicate"}, r"No Op registered for Frobnicate.*: export with standard operators"),
    ],
)
def test_an_operator_or_a_type_that_the_runtime_lacks_is_told_with_what_helps(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    source = write(tmp_path / "foreign", **changes)
    if changes.get("operator") == "TreeEnsembleRegressor":
        onnx.checker.check_model(str(source.files["model.onnx"]))

    with pytest.raises(ModelDeclarationError, match=told):
        check_model(source)


def test_a_model_that_an_earlier_synth_has_loaded_needs_no_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def installed() -> Any:
        asked.append(1)
        return onnxruntime

    monkeypatch.setattr(model_runtime, "installed_runtime", installed)
    answers = KeptAnswers()
    answers.keep_in(tmp_path / "kept.json")
    monkeypatch.setattr(model_runtime, "KEPT", answers)

    check_model(write(tmp_path / "m"))
    check_model(write(tmp_path / "m"))
    assert len(asked) == 1
    check_model(write(tmp_path / "m", "Neg"))
    assert len(asked) == 2


def test_a_model_that_was_refused_or_not_loaded_is_asked_about_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = KeptAnswers()
    answers.keep_in(tmp_path / "kept.json")
    monkeypatch.setattr(model_runtime, "KEPT", answers)
    source = write(tmp_path / "m", "Frobnicate")
    with monkeypatch.context() as without:
        without.setattr(model_runtime, "installed_runtime", lambda: None)
        check_model(source)

    for _ in range(2):
        with pytest.raises(ModelDeclarationError, match="No Op registered"):
            check_model(source)


def test_another_framework_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"torch")

    check_model(
        ModelSource("m", {"framework": "PYTORCH", "source": "model.pth"}, {"model.pth": tmp_path / "model.pth"})
    )


def resized(folder: Path, inputs: Sequence[str], **attributes: Any) -> ModelSource:
    """A model that resizes, as a folder that was read."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, size])
        for name, size in (("x", 2), ("y", 4))
    )
    weights = [
        numpy_helper.from_array(np.array([2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([4, 4], np.int64), "sizes"),
    ]
    node = helper.make_node("Resize", ["x", *inputs], ["y"], mode="nearest", axes=[2, 3], **attributes)
    graph = helper.make_graph([node], "graph", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(exist_ok=True)
    onnx.save(made, folder / "model.onnx")
    declaration = {
        "name": folder.name,
        "framework": "ONNX",
        "source": "model.onnx",
        "task": "tensors",
        "inputs": [{"name": "x", "shape": [1, 1, 2, 2], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": [1, 1, 4, 4], "dtype": "float32"}],
    }
    (folder / "model.json").write_text(json.dumps(declaration))
    return ModelSource.read(folder)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_a_resize_that_openvino_does_otherwise_is_refused_where_openvino_runs_it(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = resized(tmp_path / "kept", ["", "", "sizes"], keep_aspect_ratio_policy=policy)

    check_model(source)
    told = rf"kept/model\.onnx: must give the same on OpenVINO .*_ratio_policy {policy}, .*serving\.accelerator to cpu"
    with pytest.raises(ModelDeclarationError, match=told):
        check_model(source, accelerator="openvino")
    assert model_tool.main(["check", str(tmp_path / "kept")]) == 0
    notice = f"notice: not for OpenVINO: Resize with keep_aspect_ratio_policy {policy}, for which OpenVINO stretches"
    assert notice in capsys.readouterr().out


def test_a_resize_that_stretches_or_has_scales_is_the_same_everywhere(tmp_path: Path) -> None:
    for number, (inputs, attributes) in enumerate(
        [
            (["", "", "sizes"], {}),
            (["", "", "sizes"], {"keep_aspect_ratio_policy": "stretch"}),
            (["", "scales"], {}),
        ]
    ):
        check_model(resized(tmp_path / f"m{number}", inputs, **attributes), accelerator="openvino")
    (tmp_path / "none.onnx").write_bytes(b"no model")

    assert unlike_on_openvino(tmp_path / "none.onnx") == []


def test_a_pool_whose_attribute_is_of_another_kind_is_left_to_the_runtime(tmp_path: Path) -> None:
    source = pooled(tmp_path / "odd", "MaxPool", kernel_shape=5, ceil_mode=1)

    assert unlike_on_openvino(source.files["model.onnx"]) == []


def pooled(folder: Path, operator: str, **attributes: Any) -> ModelSource:
    """A model of one pool over rows and columns."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None, None]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "graph", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    folder.mkdir()
    onnx.save(made, folder / "model.onnx")
    return ModelSource(
        folder.name, {"framework": "ONNX", "source": "model.onnx"}, {"model.onnx": folder / "model.onnx"}
    )


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 1]}),
        ("MaxPool", {"kernel_shape": [3, 1], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ],
)
def test_a_pool_whose_edge_openvino_does_otherwise_is_refused_where_openvino_runs_it(
    operator: str, attributes: dict[str, Any], tmp_path: Path
) -> None:
    check_model(pooled(tmp_path / "plain", operator, **attributes), accelerator="openvino")
    source = pooled(tmp_path / "edge", operator, ceil_mode=1, **attributes)

    check_model(source)
    with pytest.raises(ModelDeclarationError, match=rf"same on OpenVINO as elsewhere, got {operator} with ceil_mode"):
        check_model(source, accelerator="openvino")


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),  # as PyTorch's networks have it
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "dilations": [2, 2]}),
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "count_include_pad": 1}),
    ],
)
def test_a_pool_whose_last_window_begins_in_the_picture_is_the_same_everywhere(
    operator: str, attributes: dict[str, Any], tmp_path: Path
) -> None:
    check_model(pooled(tmp_path / "edge", operator, ceil_mode=1, **attributes), accelerator="openvino")


@pytest.mark.parametrize("name", ["kernel_shape", "strides", "dilations", "pads"])
def test_an_empty_list_of_a_pool_is_one_that_is_not_there(name: str, tmp_path: Path) -> None:
    file = pooled(tmp_path / "edge", "MaxPool", ceil_mode=1, kernel_shape=[2, 2], strides=[4, 4]).files["model.onnx"]
    model = onnx.load(file)
    (node,) = model.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.add(name=name, type=onnx.AttributeProto.INTS)
    onnx.save(model, file)

    assert len(unlike_on_openvino(file)) == (name not in ("kernel_shape", "strides"))


def test_the_header_is_read_as_onnx_reads_it(tmp_path: Path) -> None:
    opsets = [("", 20), ("ai.onnx.ml", 3), ("my.ops", 300)]
    source = write(tmp_path / "m", ir=9, opsets=opsets)

    assert read_header(source.files["model.onnx"]) == Header(9, dict(opsets))


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 40, b"\x42\xff\xff\xff\x7f", b"\x08"])
def test_what_is_no_model_has_an_empty_header(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)

    assert read_header(tmp_path / "m.onnx") == Header(0, {})


def test_the_check_needs_the_runtime_that_devices_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_tool, "device_runtime", lambda: "9.9.9")

    assert model_tool.main(["check", "edge_assets/models/iris"]) == 1

    told = f"onnxruntime must be 9.9.9, as on the devices, got {device_runtime()}: run make setup"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("path", ["model.onnx.data", "weights/part one.bin", "./weights.bin"])
def test_weights_that_the_declaration_does_not_name_are_told_though_they_lie_beside_the_model(
    path: str, tmp_path: Path
) -> None:
    weights = numpy_helper.from_array(np.ones(1, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    made = helper.make_model(helper.make_graph(nodes, "graph", [x], [y], [weights]), ir_version=10)
    set_external_data(made.graph.initializer[0], path)
    file, name = tmp_path / "model.onnx", PurePosixPath(path).as_posix()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    onnx.save(made, file)
    declaration = {"framework": "ONNX", "source": "model.onnx"}
    assert (tmp_path / name).is_file()

    assert weight_files(file) == [name]
    with pytest.raises(ModelDeclarationError, match=rf"extras must name .* of model\.onnx, .*got no {name}$"):
        check_model(ModelSource("m", declaration, {"model.onnx": file}))
    check_model(ModelSource("m", declaration, {"model.onnx": file, name: tmp_path / name}))


def test_an_entry_of_a_models_own_that_is_called_location_is_no_file(tmp_path: Path) -> None:
    source = write(tmp_path / "m")
    made = onnx.load(source.files["model.onnx"])
    made.metadata_props.add(key="location", value="Bern")
    onnx.save(made, source.files["model.onnx"])

    check_model(source)
