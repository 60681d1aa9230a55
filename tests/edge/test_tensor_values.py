import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inference.models.package import DTYPES
from edge_inference.models.workloads import exact_tensor, zeros

JSON_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
NESTED = st.recursive(JSON_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))


@given(NESTED, st.sampled_from(sorted(DTYPES)))
def test_any_json_is_a_tensor_or_an_error(values: Any, dtype: str) -> None:
    try:
        found = exact_tensor(values, dtype)
    except ValueError:
        return
    assert found.dtype == zeros([0], dtype).dtype


@given(st.lists(st.integers() | st.integers(-300, 300), min_size=1), st.sampled_from(["int64", "uint8", "int16"]))
def test_whole_numbers_are_kept_or_refused(values: list[int], dtype: str) -> None:
    limits = np.iinfo(dtype)
    if all(limits.min <= value <= limits.max for value in values):
        assert exact_tensor(values, dtype).tolist() == values
        return
    with pytest.raises(ValueError, match="has no place in it"):
        exact_tensor(values, dtype)


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_numbers_are_rounded_to_the_type_and_never_become_infinite(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        expected = np.array(values, np.float32)
    if any(math.isinf(after) and not math.isinf(before) for before, after in zip(values, expected, strict=True)):
        with pytest.raises(ValueError, match="has no place in it"):
            exact_tensor(values, "float32")
        return
    assert exact_tensor(values, "float32").tolist() == expected.tolist()


def test_one_long_text_does_not_make_the_others_long() -> None:
    """NumPy would hold all texts as wide as the longest: 40 GB here."""
    values = ["x" * 1_000_000, *["y"] * 10_000]

    assert exact_tensor(values, "string").tolist() == values
    with pytest.raises(ValueError, match="got str"):
        exact_tensor(values, "float32")
