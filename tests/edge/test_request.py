import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inference.messages import ErrorCode, Request, RequestError, check_size, parse

DEVICE = "thing-1"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["request_id", "device", "index", "image", "x"])


def parsed(message: Any) -> Request | None:
    return parse(json.dumps(message).encode(), DEVICE)


def test_reads_an_index() -> None:
    assert parsed({"request_id": "a", "index": 7}) == Request("a", index=7)


def test_reads_an_image_addressed_to_this_device() -> None:
    message = {"image": base64.b64encode(b"png").decode(), "device": DEVICE}

    assert parsed(message) == Request(None, image=b"png")


def test_leaves_requests_of_other_devices_alone_even_wrong_ones() -> None:
    assert parsed({"device": "thing-2", "index": "wrong", "request_id": 7}) is None


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ([], ErrorCode.INVALID_REQUEST, "a request must be a JSON object, got a list"),
        ({}, ErrorCode.INVALID_REQUEST, "one of index, image, features, inputs, got none"),
        (
            {"index": 1, "image": ""},
            ErrorCode.INVALID_REQUEST,
            "got index and image",
        ),
        ({"index": True}, ErrorCode.INVALID_REQUEST, "index must be a whole number, got true"),
        ({"index": 1.5}, ErrorCode.INVALID_REQUEST, "index must be a whole number, got 1.5"),
        ({"index": "1"}, ErrorCode.INVALID_REQUEST, 'index must be a whole number, got "1"'),
        ({"image": 1}, ErrorCode.INVALID_REQUEST, "image must be a base64 string, got 1"),
        ({"image": "%"}, ErrorCode.INVALID_IMAGE, "image must be base64"),
        ({"image": "é"}, ErrorCode.INVALID_IMAGE, "image must be base64"),
        ({"features": 5}, ErrorCode.INVALID_REQUEST, "features must be a list or an object, got 5"),
        (
            {"features": [1, "2"]},
            ErrorCode.INVALID_REQUEST,
            'to 3.40282e+38, got "2"',
        ),
        (
            {"features": {"a": 1e39}},
            ErrorCode.INVALID_REQUEST,
            'features["a"] must be a number from -3.40282e+38 to',
        ),
        ({"inputs": [1]}, ErrorCode.INVALID_REQUEST, "inputs must be an object, got a list"),
        ({"index": 1, "device": 5}, ErrorCode.INVALID_REQUEST, "device must be a thing name, got 5"),
        ({"index": 1, "request_id": 5}, ErrorCode.INVALID_REQUEST, "request_id must be a string"),
        ({"index": 1, "request_id": "x" * 129}, ErrorCode.INVALID_REQUEST, "at most 128 characters"),
    ],
)
def test_names_what_is_wrong(message: Any, code: ErrorCode, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parsed(message)

    assert caught.value.code is code
    assert text in str(caught.value)
    assert len(str(caught.value)) < 200


def test_an_error_carries_the_id_of_its_request() -> None:
    with pytest.raises(RequestError) as caught:
        parsed({"request_id": "mine", "index": "x"})

    assert caught.value.request_id == "mine"


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"index": ' + b"9" * 5000 + b"}"])
def test_refuses_what_is_not_json(payload: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse(payload, DEVICE)

    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_refuses_a_large_message_unread() -> None:
    check_size(b"x" * 10, 10)

    with pytest.raises(RequestError, match="at most 10 bytes, got 11"):
        check_size(b"x" * 11, 10)


def outcome(payload: bytes) -> Request | RequestError | None:
    try:
        return parse(payload, DEVICE)
    except RequestError as error:
        return error


@given(st.binary())
def test_any_bytes_are_a_request_or_an_error(payload: bytes) -> None:
    assert outcome(payload) is None or isinstance(outcome(payload), Request | RequestError)


@given(st.dictionaries(FIELDS, JSON))
def test_any_json_is_a_request_for_one_thing_or_an_error(message: dict[str, Any]) -> None:
    result = outcome(json.dumps(message).encode())

    if isinstance(result, Request):
        assert (result.index is None) != (result.image is None)
    else:
        assert result is None or str(result)
