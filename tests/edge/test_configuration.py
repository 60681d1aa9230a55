from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_component.settings import ConfigurationError
from edge_inference.settings import parse
from tests.edge.local_device import REQUEST, RESPONSE, configuration

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["component", "requestTopic", "responseTopic", "topK", "queueSize", "maxRequestBytes"])


def mistakes(value: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(value)
    return str(caught.value)


def test_fills_in_the_defaults() -> None:
    settings = parse(configuration())["digits"]

    assert (settings.request_topic, settings.response_topic, settings.top_k) == (REQUEST, RESPONSE, 3)
    assert (settings.queue_size, settings.max_request_bytes, settings.model_wait_s) == (64, 131072, 10)


def test_what_each_model_has_is_composed_of_its_name_and_gives_way_to_its_own() -> None:
    each = {"component": "e.model.{Model}", "requestTopic": "e/{model}/request", "responseTopic": "e/{model}/response"}

    settings = parse({"eachModel": each, "models": {"two-parts": {}, "iris": {"responseTopic": "own", "topK": 1}}})

    first, second = settings["two-parts"], settings["iris"]
    assert (first.component, first.request_topic) == ("e.model.TwoParts", "e/two-parts/request")
    assert (first.response_topic, first.top_k) == ("e/two-parts/response", 3)
    assert (second.component, second.request_topic) == ("e.model.Iris", "e/iris/request")
    assert (second.response_topic, second.top_k) == ("own", 1)


@pytest.mark.parametrize("each", [3, "text", ["a"]])
def test_what_each_model_has_must_be_an_object(each: Any) -> None:
    assert "eachModel must be an object, got " in mistakes({**configuration(), "eachModel": each})


def test_what_each_model_has_is_checked_for_each() -> None:
    told = mistakes({"eachModel": {"component": "../{model}"}, "models": {"a": {}, "b": {}}})

    assert "models.a.component" in told
    assert "models.b.component" in told


def test_takes_whole_numbers_stored_as_floating_point() -> None:
    assert parse(configuration(topK=5.0))["digits"].top_k == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("topK", 0),
        ("topK", 101),
        ("topK", True),
        ("topK", 2.5),
        ("topK", "3"),
        ("queueSize", 0),
        ("maxRequestBytes", 1),
        ("modelWaitSeconds", -1),
        ("component", "../../etc"),
        ("component", ".."),
        ("component", ""),
        ("component", None),
        ("requestTopic", "a/+/b"),
        ("requestTopic", ""),
        ("requestTopic", "x" * 257),
        ("responseTopic", "a/#"),
        ("responseTopic", 5),
        ("responseTopic", REQUEST),
    ],
)
def test_names_the_key_and_the_value_that_are_wrong(key: str, value: Any) -> None:
    assert mistakes(configuration(**{key: value})).startswith(f"models.digits.{key} must ")


def test_lists_every_mistake_at_once() -> None:
    text = mistakes(configuration(topK=0, component=1, requestTopic="#"))

    assert len(text.splitlines()) == 3


def test_two_models_need_topics_of_their_own() -> None:
    config = configuration()
    config["models"]["other"] = dict(config["models"]["digits"])

    assert "models.other.requestTopic must be its own, got that of models.digits" in mistakes(config)


@pytest.mark.parametrize("value", [None, [], {}, {"models": None}, {"models": {"digits": 5}}, {"models": {"": {}}}])
def test_refuses_what_is_no_configuration(value: Any) -> None:
    assert "must be" in mistakes(value)


@given(st.dictionaries(KEYS, VALUES))
def test_any_value_is_accepted_or_named(changes: dict[str, Any]) -> None:
    try:
        settings = parse(configuration(**changes))
    except ConfigurationError as error:
        text = str(error)
    else:
        text = f"models.digits {settings['digits'].top_k}"
    assert text.startswith("models.digits")
