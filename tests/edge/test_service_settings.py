from typing import Any

import pytest

from edge_component.settings import ConfigurationError
from edge_inference.settings import ServiceSettings, parse_service
from tests.edge.file_bench import serving


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", 1.5),
        ("threshold", "high"),
        ("threshold", True),
        ("InferenceInterval", -1),
        ("InferenceInterval", "soon"),
        ("ImageName", 5),
        ("ImageDirectory", "a\0b"),
        ("WatchDirectory", "x" * 1025),
        ("resultFormat", "xml"),
        ("PublishResultsOnTopic", "a/#"),
        ("PublishResultsOnTopic", "edgewright/test/digits/request"),
        ("captureShare", 2),
        ("captureBelow", None),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        serving(**{key: value})

    assert str(caught.value).startswith(f"models.digits.{key} must ")


@pytest.mark.parametrize(
    ("key", "value"),
    [("heartbeatTopic", "a/#"), ("heartbeatSeconds", 0), ("captureBucket", 5), ("captureBytes", 1)],
)
def test_a_wrong_value_of_the_whole_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} must "):
        parse_service({key: value})


def test_the_whole_has_defaults() -> None:
    assert parse_service({}) == parse_service(None) == ServiceSettings()
