"""From a stranger's ONNX file to a folder that devices can serve, and a stage that lists it."""

import argparse
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skl2onnx
import skops.io
from onnx import TensorProto, helper, numpy_helper, save
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from config.loader import FOLDER, ConfigurationError, load_stage
from config.places import MODELS
from config.places import PROJECT as ROOT
from edge_inference.models.package import ModelPackageError
from tests.unit.kept_page import assert_kept
from tools import estimators, model, model_init
from tools.model_init import Answers, ModelInitError, add_to_stage, declaration_of, init

RANDOM = np.random.default_rng(0)


def saved(file: Path, nodes: Sequence[Any], inputs: Any, outputs: Any, constants: dict[str, Any], **how: Any) -> Path:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(each, name) for name, each in constants.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(made, file, **how)
    return file


def value(name: str, shape: Sequence[Any], element: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def wine(file: Path, columns: Any = 13) -> Path:
    """As skl2onnx writes a classifier without ZipMap: a label and probabilities."""
    nodes = [
        helper.make_node("MatMul", ["X", "W"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [value("label", [None], TensorProto.INT64), value("probabilities", [None, 3])]
    weights = RANDOM.normal(size=(13, 3)).astype(np.float32)
    return saved(file, nodes, [value("X", [None, columns])], outputs, {"W": weights})


def pictures(file: Path, shape: Sequence[Any], classes: int = 5, **how: Any) -> Path:
    """Means of the channels, weighed."""
    axes = [1, 2] if shape[3] in (1, 3) else [2, 3]
    channels = shape[3] if shape[3] in (1, 3) else shape[1]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["m", "F"], ["y"]),
    ]
    weights = RANDOM.normal(size=(channels, classes)).astype(np.float32)
    return saved(file, nodes, [value("x", shape)], [value("y", ["n", classes])], {"F": weights}, **how)


def two_heads(file: Path) -> Path:
    nodes = [
        helper.make_node("Reshape", ["images", "s"], ["rows"]),
        helper.make_node("ReduceMax", ["rows"], ["peaks"], axes=[2], keepdims=0),
    ]
    outputs = [value("rows", [1, 64, 3]), value("peaks", [1, 64])]
    return saved(file, nodes, [value("images", [1, 3, 8, 8])], outputs, {"s": np.array([1, 64, 3], np.int64)})


def flags(*words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    model_init.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "config"))


def made(tmp_path: Path, stages: Path, *words: Any) -> tuple[dict[str, Any], list[str]]:
    lines = list(init(flags(*words), model.check, tmp_path / "models", stages))
    (folder,) = (tmp_path / "models").iterdir()
    return json.loads((folder / "model.json").read_text()), lines


def test_a_table_becomes_a_folder_and_an_entry(tmp_path: Path, stages: Path) -> None:
    declared, lines = made(tmp_path, stages, wine(tmp_path / "Wine_Quality.onnx"), "--labels", "a,b,c")

    assert declared["name"] == "wine-quality"
    assert declared["task"] == "tabular-classification"
    assert declared["inputs"] == [{"name": "X", "dtype": "float32", "shape": [1, 13]}]
    assert declared["outputs"] == [{"name": "probabilities", "dtype": "float32", "shape": [1, 3]}]
    assert declared["probabilities"] is True
    assert len(declared["features"]) == 13
    assert load_stage("twin", stages).models[-1].folder == "wine-quality"
    assert lines[-1].startswith("next: npx cdk deploy --all -c stage=twin, then python -m twin predict wine-quality ")


def test_a_picture_model_with_free_sizes_and_weights_of_its_own(tmp_path: Path, stages: Path) -> None:
    how: dict[str, Any] = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    file = pictures(tmp_path / "net.onnx", ["n", 3, "h", "w"], **how)

    declared, _ = made(tmp_path, stages, file, "--labels", "5", "--size", "96x64", "--pixels", "imagenet")

    assert declared["extras"] == ["net.data"]
    assert declared["inputs"][0]["shape"] == [1, 3, 64, 96]
    assert declared["preprocessing"]["width"] == 96
    assert declared["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert declared["labels"] == [f"class {number}" for number in range(5)]
    assert "probabilities" not in declared


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_channels_may_come_last(tmp_path: Path, stages: Path, channels: int, mode: str) -> None:
    file = pictures(tmp_path / "last.onnx", [1, 16, 24, channels])

    declared, _ = made(tmp_path, stages, file, "--labels", "5", "--pixels", "around-0")

    assert declared["preprocessing"] == {
        "width": 24,
        "height": 16,
        "mode": mode,
        "mean": [0.5] * channels,
        "std": [0.5] * channels,
        "layout": "NHWC",
    }


def test_what_is_no_classification_takes_tensors(tmp_path: Path, stages: Path) -> None:
    declared, lines = made(tmp_path, stages, two_heads(tmp_path / "heads.onnx"))

    assert declared["task"] == "tensors"
    assert [each["name"] for each in declared["outputs"]] == ["rows", "peaks"]
    assert "--inputs" in lines[-1]


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    file = pictures(tmp_path / "net.onnx", ["n", 3, "h", "w"])

    with pytest.raises(ModelInitError) as caught:
        declaration_of(flags(file), Answers(flags(file), None))

    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["--size", "--pixels", "--labels"]


def test_who_sits_at_a_terminal_is_asked(tmp_path: Path) -> None:
    file, asked = pictures(tmp_path / "net.onnx", ["n", 3, "h", "w"]), list[str]()
    answers = iter(["32x32", "0-1", "a,b,c,d,e"])

    def ask(question: str) -> str:
        asked.append(question)
        return next(answers)

    declared = declaration_of(flags(file), Answers(flags(file), ask))

    assert declared["labels"] == ["a", "b", "c", "d", "e"]
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "a,b"], "--labels must be 3, as many as probabilities has values, got 2"),
        (["--labels", "3", "--features", "a,b"], "--features must be 13, as the input has, got 2"),
        (["--labels", "3", "--output", "label"], r"got label \(int64\), probabilities \(float32\): give --output"),
        (["--labels", "3", "--task", "image-classification"], "export it with these sizes, or --task tensors"),
        (["--labels", "3", "--task", "tensors"], "--labels must be left out with the task tensors"),
        (["--labels", "3", "--name", "My_Wine"], "a model's folder must be named by lower-case letters"),
    ],
)
def test_says_what_cannot_be(tmp_path: Path, stages: Path, words: list[str], message: str) -> None:
    before = (stages / "twin.toml").read_text()

    with pytest.raises(ValueError, match=message):
        list(init(flags(wine(tmp_path / "wine.onnx"), *words), model.check, tmp_path / "models", stages))

    assert not (tmp_path / "models").exists()
    assert (stages / "twin.toml").read_text() == before


def test_labels_of_what_seems_to_be_raw_tensors_are_not_dropped_in_silence(tmp_path: Path, stages: Path) -> None:
    rows, kinds = load_iris(return_X_y=True)
    zipped = skl2onnx.to_onnx(LogisticRegression(max_iter=1000).fit(rows, kinds), rows[:1].astype(np.float32))
    (tmp_path / "zip.onnx").write_bytes(zipped.SerializeToString())

    with pytest.raises(
        ModelInitError, match=r"export a scikit-learn model with options=\{'zipmap': False\}, or --task"
    ):
        list(init(flags(tmp_path / "zip.onnx", "--labels", "a,b,c"), model.check, tmp_path / "models", stages))


@pytest.mark.parametrize("words", [["--stage", "lab"], ["--instead-of", "nobody"]])
def test_nothing_is_said_to_be_made_where_the_stage_cannot_list_it(
    words: list[str], tmp_path: Path, stages: Path
) -> None:
    lines = init(flags(wine(tmp_path / "wine.onnx"), "--labels", "3", *words), model.check, tmp_path / "models", stages)

    with pytest.raises((ConfigurationError, ModelInitError), match=r"must be one of .*, got '?(lab|nobody)"):
        next(lines)


def test_without_a_file_it_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["init"]) == 1
    assert model.main(["init", str(tmp_path)]) == 1

    told = capsys.readouterr().err
    assert told.startswith("init: either FILE or --from must be given: an ONNX file")
    assert told.endswith(f"got {tmp_path}, which is a folder\n")


@pytest.mark.parametrize(("content", "message"), [(b"no model", "that ONNX Runtime .* loads"), (None, "is missing")])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content:
        (tmp_path / "a.onnx").write_bytes(content)

    with pytest.raises(ModelInitError, match=message):
        declaration_of(flags(tmp_path / "a.onnx"), Answers(flags(tmp_path / "a.onnx"), None))


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(bytes(12))
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value="../secret")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    file = tmp_path / "in" / "m.onnx"
    save(helper.make_model(graph, ir_version=10), file)

    with pytest.raises(ModelInitError, match=r"escapes model directory"):
        declaration_of(flags(file), Answers(flags(file), None))


def test_an_end_of_the_answers_leaves_what_is_missing_to_the_flags(tmp_path: Path) -> None:
    asked = []

    def end(question: str) -> str:
        asked.append(question)
        raise EOFError

    given = flags(pictures(tmp_path / "net.onnx", ["n", 3, "h", "w"]))

    with pytest.raises(
        ModelInitError, match=r"(?s)--size must be given.*--pixels must be given.*--labels must be given"
    ):
        declaration_of(given, Answers(given, end))

    assert len(asked) == 1


def test_inputs_that_no_memory_holds_are_told(tmp_path: Path, stages: Path) -> None:
    # Of more bytes than a processor has addresses for.
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    file = saved(tmp_path / "large.onnx", nodes, [value("x", [1, 3, 10**7, 10**7])], [value("y", [1, 3])], {})

    with pytest.raises(
        ModelInitError, match=r"must run on \[1, 3, 10000000, 10000000\] of float32, got Unable to allocate"
    ):
        made(tmp_path, stages, file, "--labels", "3", "--pixels", "0-1")
    with pytest.raises(
        ModelPackageError, match=r"must run in this machine's memory: Unable to allocate .*smaller inputs"
    ):
        made(tmp_path, stages, file, "--task", "tensors")


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_weights_that_are_called_like_a_file_of_the_folder_are_refused(tmp_path: Path, stages: Path, name: str) -> None:
    file = pictures(tmp_path / "net.onnx", [1, 3, 4, 4], save_as_external_data=True, location=name, size_threshold=0)

    with pytest.raises(ModelInitError, match=rf"weights must be in a file of another name than {name}: export"):
        made(tmp_path, stages, file, "--labels", "5", "--pixels", "0-1")

    assert not (tmp_path / "models").exists()


def test_an_entry_that_a_stage_refuses_leaves_nothing_behind(
    tmp_path: Path, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> str:
        raise ConfigurationError("no room")

    monkeypatch.setattr(model_init, "add_to_stage", refuse)

    with pytest.raises(ConfigurationError, match="no room"):
        made(tmp_path, stages, wine(tmp_path / "wine.onnx"), "--labels", "3")

    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("stem", ["3d", "resnet50-v1-5-of-the-second-line-final", "模型"])
def test_a_file_whose_name_no_model_can_have_is_told_with_the_flag(tmp_path: Path, stages: Path, stem: str) -> None:
    with pytest.raises(
        ModelInitError, match=r"must be named by .*, at most 30, a letter first, got '.*': give another --name"
    ):
        made(tmp_path, stages, wine(tmp_path / f"{stem}.onnx"), "--labels", "3")


def test_a_folder_is_listed_before_it_is_told(tmp_path: Path, stages: Path) -> None:
    given = flags(wine(tmp_path / "wine.onnx"), "--labels", "3")
    lines = init(given, model.check, tmp_path / "models", stages)

    told = next(line for line in lines if line.startswith("made "))
    lines.close()  # type: ignore[attr-defined]  # the reader has gone

    assert told.startswith(f"made {tmp_path / 'models' / 'wine'};")
    assert "wine" in [each.folder for each in load_stage("twin", stages).models]


@pytest.mark.parametrize("moment", ["shutil.copytree", "tools.model_init.load_stage"])
def test_an_interrupt_leaves_no_half_of_a_model(
    moment: str, tmp_path: Path, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stages / "twin.toml"
    before, listed = file.read_text(), load_stage

    def interrupted(place: Any, *rest: Any) -> Any:
        if moment.endswith("load_stage") and not (tmp_path / "models" / "wine").is_dir():
            return listed(place, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, interrupted)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, stages, wine(tmp_path / "wine.onnx"), "--labels", "3")

    assert list((tmp_path / "models").iterdir()) == []
    assert file.read_text() == before


def test_a_model_leaves_with_its_thresholds_and_everything_else_stays(stages: Path) -> None:
    before = load_stage("twin", stages)

    said = add_to_stage("twin", "wine", "image-classification", stages)

    after = load_stage("twin", stages)
    assert said == "config/twin.toml lists wine now in place of image-classification"
    assert [each.folder for each in after.models] == ["digits", "iris", "digit-detector", "wine"]
    assert after.observability.models == {}
    unchanged = {"models", "observability"}
    assert after.model_dump(exclude=unchanged) == before.model_dump(exclude=unchanged)
    assert "# what it is not sure of" in (stages / "twin.toml").read_text()


def test_a_stages_file_is_written_whole_or_not_at_all(stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (stages / "twin.toml").read_text()

    def full(_path: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)

    with pytest.raises(OSError, match="No space left"):
        add_to_stage("twin", "wine", None, stages)

    assert (stages / "twin.toml").read_text() == before
    assert list(stages.glob("twin.toml*")) == [stages / "twin.toml"]


def test_settings_of_a_model_leave_with_it(stages: Path) -> None:
    file = stages / "twin.toml"
    entry = '[[models]]\nfolder = "iris"\n'
    file.write_text(
        file.read_text().replace(entry, entry + 'compiler = "neo"\n[models.neo]\nmax_runtime_minutes = 5\n')
    )
    assert [each.compiler for each in load_stage("twin", stages).models].count("neo") == 2

    add_to_stage("twin", "wine", "iris", stages)

    assert [each.compiler for each in load_stage("twin", stages).models].count("neo") == 1
    assert "max_runtime_minutes = 5" not in file.read_text()


@pytest.mark.parametrize("instead_of", [None, "iris"])
def test_tables_of_the_last_entry_stay_with_it(tmp_path: Path, instead_of: str | None) -> None:
    file = tmp_path / "test.toml"
    file.write_text(
        'region = "us-east-1"\n\n[[models]]\nfolder = "iris"\n\n'
        '  [[ models ]]\n  folder = "digits"\n[models.serving]\ntopK = 2\n\n[rollout]\nabort_after = 3\n'
    )

    add_to_stage("test", "wine", instead_of, tmp_path)

    stage = load_stage("test", tmp_path)
    served = {each.folder: each.serving for each in stage.models}
    assert served == {**({} if instead_of else {"iris": {}}), "digits": {"topK": 2}, "wine": {}}
    assert stage.rollout.abort_after == 3


@pytest.mark.parametrize(
    "models",
    [
        'models = [{ folder = "iris" }, { folder = "digits" }]',
        '[[models]]\nfolder = """iris"""\n[[models]]\nfolder = "digits"',
    ],
    ids=["in one line", "another spelling"],
)
def test_a_stage_whose_models_cannot_be_edited_line_by_line_is_told_and_left(tmp_path: Path, models: str) -> None:
    file = tmp_path / "test.toml"
    file.write_text(before := f'region = "us-east-1"\n{models}\n')

    with pytest.raises(
        ModelInitError, match=r"test.toml must list its models as tables \[\[models\]\], .* --stage none"
    ):
        add_to_stage("test", "wine", "iris", tmp_path)

    assert file.read_text() == before


def test_a_listed_model_is_left_alone_and_a_broken_stage_is_not_written(stages: Path) -> None:
    file = stages / "twin.toml"
    before = file.read_text()

    assert add_to_stage("twin", "iris", None, stages) == "config/twin.toml lists iris already"
    assert file.read_text() == before
    with pytest.raises(ConfigurationError):
        add_to_stage("twin", "Not A Slug", None, stages)
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digits", ["sample 0", "is 7; 7 0.995"]),
        ("iris", ["sample 0", "setosa 0.9"]),
        ("image-classification", ["image.jpg", "224 x 224"]),
    ],
)
def test_a_preview_shows_what_the_model_sees_and_says(name: str, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out" / "preview.html"

    assert model.main(["preview", str(MODELS / name), "--out", str(out)]) == 0

    found = assert_kept(out.read_text(encoding="utf-8"))
    text = " ".join(found.text)
    assert len(found.all("img")) == {"digits": 24, "iris": 0, "image-classification": 1}[name]
    assert all(word in text for word in words), text


def test_a_preview_takes_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = '{"features": [5.1, 3.5, 1.4, 0.2]}'

    command = ["preview", str(MODELS / "iris"), row, "--out", str(tmp_path / "p.html")]

    assert model.main(command) == 0
    assert "1 inputs in " in capsys.readouterr().out
    assert "setosa 0.9" in (tmp_path / "p.html").read_text()


class Forest:
    """A type that nobody vouches for."""

    n_features_in_ = 2


def dumped(file: Path, estimator: Any) -> Path:
    skops.io.dump(estimator, file)
    return file


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(n_estimators=5, random_state=0),
        LogisticRegression(),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_estimator_becomes_a_model_that_gives_the_same(tmp_path: Path, stages: Path, estimator: Any) -> None:
    rows, kinds = load_iris(return_X_y=True)
    names = np.array(["setosa, common", "versicolor", "virginica"])
    fitted = estimator.fit(rows.astype(np.float32), names[kinds])

    declared, lines = made(
        tmp_path, stages, "--from", dumped(tmp_path / "my_iris.skops", fitted), "--trust", "sklearn.tree._tree.Tree"
    )

    assert re.match(r"my_iris\.skops: as ONNX it gives what the estimator gives, to \d", lines[0])
    assert declared["name"] == "my-iris"
    assert declared["task"] == "tabular-classification"
    assert declared["labels"] == list(names)
    assert declared["inputs"][0]["shape"] == [1, 4]
    row = json.dumps({"features": rows[80].tolist()})
    (said,) = list(model.check(tmp_path / "models" / "my-iris", [row]))[1:]
    label, probability = names[fitted.predict(rows[80:81])[0] == names][0], fitted.predict_proba(rows[80:81]).max()
    assert f": {label} {probability:.3f}" in said


def test_an_estimator_of_values_becomes_a_model_of_tensors(tmp_path: Path, stages: Path) -> None:
    rows = np.array([[0, 1], [1, 0], [1, 1]], np.float32)
    fitted = LinearRegression().fit(rows, rows @ [2.0, -1.0])

    declared, _ = made(tmp_path, stages, "--from", dumped(tmp_path / "price.skops", fitted))

    assert declared["task"] == "tensors"
    (said,) = list(model.check(tmp_path / "models" / "price", ['{"inputs": {"X": [[3, 1]]}}']))[1:]
    assert re.search(r'"variable": \[\[(5\.0|4\.9999)', said), said


TREES = ("--trust", "sklearn.tree._tree.Tree")
_CALIBRATION = "sklearn.calibration"
CALIBRATED = ("--trust", f"{_CALIBRATION}._CalibratedClassifier", "--trust", f"{_CALIBRATION}._SigmoidCalibration")


@pytest.mark.filterwarnings("ignore:Skipping features")  # of scikit-learn, about the column that is left out
def test_an_estimator_whose_conversion_answers_otherwise_far_from_0_is_refused(tmp_path: Path, stages: Path) -> None:
    # skl2onnx keeps a column that the imputer leaves out: findings/skl2onnx-empty-column-shifts-the-rest.sh
    rows, kinds = load_iris(return_X_y=True)
    rows = rows.copy()
    rows[:, 0] = np.nan
    fitted = make_pipeline(SimpleImputer(), DecisionTreeClassifier(random_state=0)).fit(rows, kinds)
    file = dumped(tmp_path / "shifted.skops", fitted)

    with pytest.raises(estimators.EstimatorError, match=r"got a difference of 1 on \d+ of 384 rows: a step that"):
        made(tmp_path, stages, "--from", file, *TREES, "--trust", "numpy.dtype")


def test_an_estimator_that_knows_its_categories_alone_is_compared_on_them(tmp_path: Path, stages: Path) -> None:
    rows = np.random.default_rng(0).integers(3, 6, size=(60, 2)).astype(np.float32)
    fitted = make_pipeline(OrdinalEncoder(), DecisionTreeClassifier(random_state=0)).fit(rows, rows.sum(axis=1) > 8)
    file = dumped(tmp_path / "known.skops", fitted)

    _, lines = made(tmp_path, stages, "--from", file, *TREES, "--trust", "numpy.dtype")

    assert lines[0] == "known.skops: as ONNX it gives what the estimator gives, to 0"


def test_a_file_that_the_runtime_refuses_is_an_estimators_fault(tmp_path: Path, stages: Path) -> None:
    # findings/skl2onnx-rare-categories-of-the-first-column.sh
    rows = np.stack([np.repeat(range(5), (5, 40, 5, 45, 5)), np.repeat(range(3), (40, 5, 55))], axis=1).astype("f")
    fitted = make_pipeline(OrdinalEncoder(min_frequency=20), LogisticRegression()).fit(rows, rows[:, 0] > 2)
    file = dumped(tmp_path / "rare.skops", fitted)

    with pytest.raises(estimators.EstimatorError, match=r"makes a model of Pipeline that ONNX Runtime refuses: "):
        made(tmp_path, stages, "--from", file, "--trust", "numpy.dtype")


def test_classes_that_predict_names_otherwise_than_the_likeliest_are_told(tmp_path: Path, stages: Path) -> None:
    rows, kinds = load_iris(return_X_y=True)
    fitted = SGDClassifier(loss="modified_huber", random_state=0).fit(rows, kinds)

    _, lines = made(tmp_path, stages, "--from", dumped(tmp_path / "tied.skops", fitted))

    assert re.match(r"tied\.skops: on \d+ of 384 rows its predict names another class than the likeliest", lines[1])


def test_a_model_that_answers_an_estimator_in_place_of_a_row_is_refused(tmp_path: Path, stages: Path) -> None:
    # findings/skl2onnx-bagging-answers-by-estimator.sh
    rows, kinds = load_iris(return_X_y=True)
    file = dumped(tmp_path / "bagged.skops", BaggingClassifier(RidgeClassifier(), random_state=0).fit(rows, kinds))

    with pytest.raises(estimators.EstimatorError, match="an answer a row, got 10 for 384 rows of BaggingClassifier: "):
        made(tmp_path, stages, "--from", file)


def test_an_estimator_whose_limit_would_be_lost_is_refused_also_within_a_pipeline(tmp_path: Path, stages: Path) -> None:
    # findings/skl2onnx-tuned-threshold-is-lost.sh
    rows, kinds = load_iris(return_X_y=True)
    tuned = TunedThresholdClassifierCV(LogisticRegression(max_iter=1000), scoring="f1", random_state=0)
    requests = "utils._metadata_requests"
    scoring = [
        *("metrics._classification.f1_score", "metrics._scorer._CurveScorer", "metrics._scorer._Scorer"),
        *(f"{requests}.MetadataRequest", f"{requests}.MethodMetadataRequest"),
    ]
    file = dumped(tmp_path / "tuned.skops", make_pipeline(StandardScaler(), tuned).fit(rows, kinds == 1))

    with pytest.raises(estimators.EstimatorError, match=r"the likeliest class, Pipeline cuts at 0\.\d+, of which "):
        made(tmp_path, stages, "--from", file, *(word for name in scoring for word in ("--trust", f"sklearn.{name}")))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (LinearDiscriminantAnalysis(), "LinearDiscriminantAnalysis of two classes, whose scores are doubled: fit Cal"),
        (CalibratedClassifierCV(GaussianNB(), method="isotonic"), "CalibratedClassifierCV of method=.isotonic., which"),
        (KNeighborsClassifier(weights="distance"), "KNeighborsClassifier of weights=.distance., which are lost: fit"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_converted_wrongly_is_refused_where_no_row_shows_it(
    tmp_path: Path, stages: Path, estimator: Any, message: str
) -> None:
    # findings/skl2onnx-{discriminant-of-two-classes,isotonic-calibration-in-steps,neighbours-lose-their-weights}.sh
    rows, kinds = load_breast_cancer(return_X_y=True)
    fitted = make_pipeline(StandardScaler(), estimator).fit(rows, kinds)
    file = dumped(tmp_path / "wrong.skops", fitted)

    with pytest.raises(estimators.EstimatorError, match=f"one that skl2onnx converts rightly, got {message}"):
        made(tmp_path, stages, "--from", file, *CALIBRATED)


def test_what_was_only_tried_or_is_put_right_behind_is_not_refused() -> None:
    rows, kinds = load_iris(return_X_y=True)

    def refused(weights: str) -> list[str]:
        search = GridSearchCV(KNeighborsClassifier(weights="distance"), {"weights": [weights]})
        return list(estimators._converted_wrongly(search.fit(rows, kinds)))

    discriminant = FrozenEstimator(LinearDiscriminantAnalysis().fit(rows, kinds == 1))

    assert refused("uniform") == []
    assert len(refused("distance")) == 1
    assert list(estimators._converted_wrongly(CalibratedClassifierCV(discriminant).fit(rows, kinds == 1))) == []


def test_a_discriminant_of_two_classes_is_right_once_it_is_calibrated(tmp_path: Path, stages: Path) -> None:
    rows, kinds = load_breast_cancer(return_X_y=True)
    fitted = CalibratedClassifierCV(LinearDiscriminantAnalysis(), cv=3).fit(rows, kinds)
    file = dumped(tmp_path / "calibrated.skops", fitted)

    _, lines = made(tmp_path, stages, "--from", file, *CALIBRATED)

    assert lines[0].startswith("calibrated.skops: as ONNX it gives what the estimator gives, to ")


@pytest.mark.parametrize("labels", [2, 3])
def test_an_estimator_of_several_labels_a_row_is_refused(tmp_path: Path, stages: Path, labels: int) -> None:
    # findings/skl2onnx-perceptron-of-two-labels.sh
    rows, kinds = load_iris(return_X_y=True)
    several = np.eye(3, dtype=int)[kinds, :labels]
    fitted = MLPClassifier((4,), solver="lbfgs", tol=1.0, random_state=0).fit(rows, several)
    file = dumped(tmp_path / "several.skops", fitted)

    with pytest.raises(estimators.EstimatorError, match=f"a classifier must have one target, got {labels}: make a mod"):
        made(tmp_path, stages, "--from", file)


def test_what_an_estimator_cannot_be_is_told(tmp_path: Path, stages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*words: Any) -> str:
        with pytest.raises((ModelInitError, estimators.EstimatorError)) as found:
            made(tmp_path, stages, *words)
        return str(found.value)

    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(pickle.dumps(LogisticRegression()))
    unfitted = dumped(tmp_path / "unfitted.skops", LogisticRegression())
    with zipfile.ZipFile(tmp_path / "empty.skops", "w") as archive:
        archive.writestr("schema.json", "{}")

    assert told("--from", pickled).startswith("--from must be a skops file, never a pickle, got ")
    assert told("--from", tmp_path / "none.skops").endswith("none.skops: No such file or directory")
    assert (
        told("--from", unfitted)
        == "unfitted.skops must hold a fitted estimator that predicts, got LogisticRegression: call fit first, or save "
        "what predicts"
    )
    classes_alone = dumped(tmp_path / "classes.skops", LinearSVC().fit([[0.0], [1.0]], [0, 1]))
    assert told("--from", classes_alone).startswith("a classifier must give probabilities (predict_proba), LinearSVC")
    several = DecisionTreeClassifier().fit([[0.0], [1.0]], [[0, 1], [1, 0]])
    assert told("--from", dumped(tmp_path / "several.skops", several), *TREES).startswith("a classifier must have one ")
    assert told("--from", tmp_path / "empty.skops").startswith("--from must be a whole skops file, got ")
    strange = told("--from", dumped(tmp_path / "strange.skops", Forest()))
    assert re.match(r"strange\.skops must be made of types that skops knows as harmless, got (\S+\.Forest): ", strange)
    assert re.search(r"--trust \S+\.Forest$", strange)
    assert told() == told("--from", unfitted, unfitted)
    assert told().startswith("either FILE or --from must be given")
    monkeypatch.setattr(estimators, "LIMIT_BYTES", 10)
    assert told("--from", unfitted).startswith("--from must hold at most 10 bytes, got ")
    monkeypatch.setattr(estimators, "find_spec", lambda _name: None)
    assert told("--from", unfitted) == f"--from needs skops and skl2onnx, not found: {estimators.INSTALL}"
    assert not (tmp_path / "models").exists()


def test_a_converter_that_fails_without_a_word_is_told_by_its_kind(
    tmp_path: Path, stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(skl2onnx, "to_onnx", fail)
    file = dumped(tmp_path / "plain.skops", LogisticRegression().fit([[0.0], [1.0]], [0, 1]))

    with pytest.raises(
        estimators.EstimatorError, match="cannot convert LogisticRegression: NotImplementedError; every"
    ):
        made(tmp_path, stages, "--from", file)


def test_the_releases_that_an_error_names_are_those_that_are_tried() -> None:
    locked = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")

    assert all(f"\n{each} \\" in locked for each in estimators.INSTALL.split()[2:])
