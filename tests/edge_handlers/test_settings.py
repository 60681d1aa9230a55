import math
from typing import Any

import pytest

from edge_component.settings import ConfigurationError
from v1_handler.settings import parse

GOOD: dict[str, Any] = {"name": "probe", "handler": "probe.handler", "subscribe": ["t/in"], "publish": ["t/out"]}


def test_what_is_left_out_has_a_default() -> None:
    settings = parse({**GOOD, "accessControl": {}})

    assert (settings.pinned, settings.encoding, settings.timeout_s, settings.idle_s) == (False, "json", 3, 60)
    assert (settings.subscribe, settings.publish, settings.environment) == (("t/in",), ("t/out",), {})


def test_the_devices_name_is_filled_into_topics() -> None:
    settings = parse(
        {**GOOD, "subscribe": ["cmd/{iot:thingName}"], "publish": ["dt/{iot:thingName}/x", "y"]}, "press-7"
    )

    assert (settings.subscribe, settings.publish) == (("cmd/press-7",), ("dt/press-7/x", "y"))


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"name": "a b"}, "name must be letters, digits, '_' and '-', at most 63, got 'a b'"),
        ({"name": None}, "name must be letters"),
        ({"handler": "probe"}, "handler must be 'module.function', got 'probe'"),
        ({"pinned": "yes"}, "pinned must be true or false, got 'yes'"),
        ({"encoding": "xml"}, "encoding must be one of json, binary, got 'xml'"),
        ({"encoding": []}, "encoding must be one of json, binary, got []"),
        ({"subscribe": "t/in"}, "subscribe must be a list of topics, got 't/in'"),
        ({"subscribe": [5]}, "subscribe: a topic must have 1 to 256 bytes, got 5"),
        ({"publish": [""]}, "publish: a topic must have 1 to 256 bytes, got ''"),
        ({"publish": ["é" * 129]}, "publish: a topic must have 1 to 256 bytes, got '"),
        ({"subscribe": ["t/#"]}, "subscribe: a topic must be exact, without wildcards, got 't/#'"),
        ({"environment": "A=1"}, "environment must be an object, got 'A=1'"),
        ({"environment": {"1A": "x"}}, "environment.1A must be a variable's name and a text, got 'x'"),
        ({"environment": {"A": 1}}, "environment.A must be a variable's name and a text, got 1"),
        ({"timeoutSeconds": 0}, "timeoutSeconds must be a whole number from 1 to 3600, got 0"),
        ({"timeoutSeconds": math.nan}, "timeoutSeconds must be a whole number from 1 to 3600, got nan"),
        ({"queueSize": True}, "queueSize must be a whole number from 1 to 10000, got True"),
    ],
)
def test_a_mistake_is_named_with_its_rule_and_value(changes: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse({**GOOD, **changes})

    assert str(caught.value).startswith(mistake)


def test_all_mistakes_are_told_at_once_and_long_values_are_cut() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse({**GOOD, "handler": "x" * 1000, "idleSeconds": "long"})

    first, second = str(caught.value).split("\n")
    assert len(first) < 120
    assert second == "idleSeconds must be a whole number from 1 to 86400, got 'long'"


@pytest.mark.parametrize("value", [None, [], "name"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="the configuration must be an object, got"):
        parse(value)


def test_numbers_may_be_stored_as_floating_point() -> None:
    assert parse({**GOOD, "timeoutSeconds": 7.0}).timeout_s == 7
