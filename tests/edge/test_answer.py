import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edge_inference.messages import PAYLOAD_BYTES, ErrorCode, Prediction, RequestError, Score, failure, success
from edge_inference.models.pictures import Preprocessing
from edge_inference.models.workloads import _classes, top_k


def test_an_answer_holds_what_clients_need() -> None:
    scores = [Score("7", 0.98765432), Score("1", 0.01)]

    answer = json.loads(success("id", "thing-1", "digits", Prediction("1.2.3", scores), 1.23456))

    assert answer.pop("timestamp").endswith("Z")
    assert len(answer.pop("id")) == 32
    assert answer == {
        "request_id": "id",
        "device": "thing-1",
        "model": {"name": "digits", "version": "1.2.3"},
        "label": "7",
        "top_k": [{"label": "7", "probability": 0.987654}, {"label": "1", "probability": 0.01}],
        "latency_ms": 1.235,
    }


@given(st.text(max_size=128), st.text(max_size=120), st.integers(1, 100))
def test_an_answer_always_fits_into_a_message(request_id: str, label: str, count: int) -> None:
    prediction = Prediction("1.2.3", [Score(label, 0.01)] * count)

    payload = success(request_id, "thing-1", "digits", prediction, 1)

    assert len(payload) <= PAYLOAD_BYTES
    assert json.loads(payload)["label"] == label


@given(st.text(max_size=128), st.text(max_size=5000))
def test_an_error_answer_always_fits_into_a_message(request_id: str, message: str) -> None:
    payload = failure(request_id, "thing-1", RequestError(ErrorCode.INTERNAL_ERROR, message))

    assert len(payload) <= PAYLOAD_BYTES
    assert json.loads(payload)["error"]["code"] == "InternalError"


def test_an_id_that_is_no_valid_unicode_comes_back_as_it_was() -> None:
    assert json.loads(success("\ud800", "d", "m", Prediction("1", [Score("a", 1)]), 1))["request_id"] == "\ud800"


@given(
    arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_any_finite_logits_become_probabilities(logits: "np.typing.NDArray[np.float32]") -> None:
    shares = [score.probability for score in top_k(logits, "x" * len(logits), len(logits))]

    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    wide = logits.astype(np.float64)
    exponentials = np.exp(wide - wide.max())
    assert shares == pytest.approx(sorted(exponentials / exponentials.sum(), reverse=True))


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value")  # of numpy, about the sum of both infinities
@pytest.mark.parametrize("values", [(0, np.nan), (0, np.inf), (0, -np.inf), (np.inf, -np.inf)])
def test_what_is_not_finite_is_refused(values: tuple[float, float], *, probabilities: bool) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        top_k(np.array(values, np.float32), "ab", 1, probabilities=probabilities)


def test_top_k_is_ordered_and_bounded_by_the_labels() -> None:
    logits = np.log(np.array([0.2, 0.5, 0.3], np.float32))

    assert [score.label for score in top_k(logits, "abc", 2)] == ["b", "c"]
    assert len(top_k(logits, "abc", 99)) == 3
    assert top_k(logits, "abc", 1)[0].probability == pytest.approx(0.5, abs=1e-6)


@given(
    logits=arrays.arrays(np.float32, st.integers(1, 30), elements=st.integers(-3, 3).map(float)),
    count=st.integers(1, 40),
    probabilities=st.booleans(),
)
def test_top_k_is_the_head_of_all_sorted_ties_by_class(
    logits: "np.typing.NDArray[np.float32]", count: int, *, probabilities: bool
) -> None:
    names = [str(place) for place in range(len(logits))]
    best = top_k(logits, names, count, probabilities=probabilities)

    every = sorted(range(len(logits)), key=lambda place: (-logits[place], place))
    assert [score.label for score in best] == [str(place) for place in every[:count]]
    shares = logits if probabilities else np.exp(logits) / np.exp(logits).sum()
    assert [score.probability for score in best] == pytest.approx([float(shares[place]) for place in every[:count]])


def test_preprocessing_normalises_each_channel_and_puts_channels_first() -> None:
    preprocessing = Preprocessing(2, 1, "RGB", (0.5, 0, 0), (0.5, 1, 2))

    values = preprocessing.apply(np.array([[[1, 0.25, 1], [0, 0.75, 0]]], np.float32))

    assert values.shape == preprocessing.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(values[0, :, 0], np.array([[1, -1], [0.25, 0.75], [0.5, 0]]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, 1, "L", (0,), (1,)), "at least 1, got 0x1"),
        ((1, 1, "BGR", (0,), (1,)), "mode must be one of L, RGB, got 'BGR'"),
        ((1, 1, "RGB", (0,), (1, 1, 1)), "mean must have 3 values, got 1"),
        ((1, 1, "L", (0,), (0,)), "std must not be 0"),
    ],
)
def test_preprocessing_refuses_settings_without_a_meaning(arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Preprocessing(*arguments)  # type: ignore[arg-type]


def test_preprocessing_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="must have the shape"):
        Preprocessing(2, 1, "L", (0,), (1,)).apply(np.zeros((2, 2, 1), np.float32))


@pytest.mark.parametrize(("count", "labels"), [(5, 10), (1, 10), (2, 3), (20, 10)])
def test_a_model_whose_output_changes_its_length_gives_no_label(count: int, labels: int) -> None:
    package: Any = SimpleNamespace(labels=tuple(map(str, range(labels))), probabilities=True)

    with pytest.raises(ValueError, match=f"must have {labels} values, one a label, got {count}"):
        _classes(package, np.zeros((1, count), np.float32))
