"""`deviceGroups` of the Auth component, and `mqttTopicMapping` of the bridge, as documented and as mistaken."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.core_device.client_devices.bridge import Mapping, MappingError, parse_mappings
from twin.core_device.client_devices.device_auth import PermissionsError, parse_permissions

CONNECT = ("mqtt:connect", "mqtt:clientId:{thing}")


def groups(rule: str, operations: Any = "*", resources: Any = "*") -> dict[str, Any]:
    return {
        "formatVersion": "2021-03-05",
        "definitions": {"Group": {"selectionRule": rule, "policyName": "Policy"}},
        "policies": {"Policy": {"Statement": {"operations": operations, "resources": resources}}},
    }


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("thingName: camera-1", ["camera-1"], ["camera-2", "camera-11", "Camera-1"]),
        ("thingName: camera-1 OR thingName: camera-2", ["camera-1", "camera-2"], ["camera-3"]),
        ("thingName: camera-*", ["camera-1", "camera-"], ["camera", "my-camera-1"]),
        ("thingName: *-left", ["camera-left"], ["camera-right", "left"]),
        ("thingName: *era*", ["camera-1", "era"], ["plc-1"]),
        ("thingName: *", ["camera-1", "x"], []),
        ("thingName: camera-* AND thingName: *-left", ["camera-left"], ["camera-right", "plc-left"]),
        ("thingName: plc-1 OR thingName: camera-* AND thingName: *-left", ["plc-1", "camera-left"], ["camera-right"]),
        (r"thingName: MyTeam\:Device1", ["MyTeam:Device1"], ["MyTeam", r"MyTeam\:Device1"]),
        ("  thingName:camera-1  ", ["camera-1"], ["camera-2"]),
    ],
)
def test_a_selection_rule_selects_the_things_that_it_names(rule: str, inside: list[str], outside: list[str]) -> None:
    permissions = parse_permissions(groups(rule))

    assert [thing for thing in inside + outside if permissions.groups_of(thing)] == inside
    assert all(permissions.allows(thing, "mqtt:connect", f"mqtt:clientId:{thing}") for thing in inside)
    assert not any(permissions.allows(thing, "mqtt:connect", f"mqtt:clientId:{thing}") for thing in outside)


@pytest.mark.parametrize(
    ("operations", "resources", "operation", "resource", "allowed"),
    [
        (["mqtt:publish"], ["mqtt:topic:a/b"], "mqtt:publish", "mqtt:topic:a/b", True),
        (["mqtt:publish"], ["mqtt:topic:a/b"], "mqtt:publish", "mqtt:topic:a/bc", False),
        (["mqtt:publish"], ["mqtt:topic:a/b"], "mqtt:subscribe", "mqtt:topicfilter:a/b", False),
        (["mqtt:publish"], ["mqtt:topic:a/*"], "mqtt:publish", "mqtt:topic:a/b/c", True),
        (["mqtt:publish"], ["mqtt:topic:a/+"], "mqtt:publish", "mqtt:topic:a/b", False),
        (["mqtt:subscribe"], ["mqtt:topicfilter:a/+"], "mqtt:subscribe", "mqtt:topicfilter:a/+", True),
        (["mqtt:subscribe"], ["mqtt:topicfilter:a/+"], "mqtt:subscribe", "mqtt:topicfilter:a/b", False),
        (["mqtt:subscribe"], ["mqtt:topicfilter:a/+"], "mqtt:subscribe", "mqtt:topicfilter:#", False),
        ("mqtt:*", "*", "mqtt:publish", "mqtt:topic:x", True),
        (
            ["mqtt:publish"],
            ["mqtt:topic:${iot:Connection.Thing.ThingName}/out"],
            "mqtt:publish",
            "mqtt:topic:camera-1/out",
            True,
        ),
        (
            ["mqtt:publish"],
            ["mqtt:topic:${iot:Connection.Thing.ThingName}/out"],
            "mqtt:publish",
            "mqtt:topic:camera-2/out",
            False,
        ),
    ],
)
def test_a_policy_allows_what_it_lists(
    operations: Any, resources: Any, operation: str, resource: str, allowed: bool
) -> None:
    permissions = parse_permissions(groups("thingName: camera-1", operations, resources))

    assert permissions.allows("camera-1", operation, resource) is allowed
    assert not permissions.allows("camera-2", operation, resource)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_star_stands_for_any_characters_wherever_and_however_often(pattern: str, topic: str) -> None:
    permissions = parse_permissions(groups("thingName: *", "mqtt:publish", f"mqtt:topic:x{pattern}"))

    assert permissions.allows("camera-1", "mqtt:publish", f"mqtt:topic:x{topic}") is fnmatchcase(topic, pattern)


def test_a_topic_that_nearly_fits_many_stars_is_refused_without_trying_every_way() -> None:
    permissions = parse_permissions(groups("thingName: *", "mqtt:publish", "mqtt:topic:" + "*a" * 9 + "*b"))

    assert not permissions.allows("camera-1", "mqtt:publish", "mqtt:topic:" + "a" * 1000)


def test_a_device_in_several_groups_has_the_rights_of_all_and_one_in_none_has_none() -> None:
    content = groups("thingName: camera-*", ["mqtt:connect"])
    content["definitions"]["Left"] = {"selectionRule": "thingName: *-left", "policyName": "Say"}
    content["policies"]["Say"] = {"It": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:left"]}}

    permissions = parse_permissions(content)

    assert permissions.allows("camera-left", "mqtt:connect", "mqtt:clientId:camera-left")
    assert permissions.allows("camera-left", "mqtt:publish", "mqtt:topic:left")
    assert not permissions.allows("camera-right", "mqtt:publish", "mqtt:topic:left")
    assert not parse_permissions(None).allows("camera-left", "mqtt:connect", "mqtt:clientId:camera-left")


def test_every_mistake_in_device_groups_is_told_with_its_place() -> None:
    content = groups("camera-*", ["mqtt:fly"], ["topic:a"])
    content["formatVersion"] = "2020"
    content["definitions"]["Other"] = {"selectionRule": "thingName: a*b", "policyName": "Missing"}
    content["policies"]["Empty"] = {"Statement": {"operations": [], "resources": 3}}

    with pytest.raises(PermissionsError) as caught:
        parse_permissions(content)

    text = str(caught.value)
    for part in (
        "deviceGroups.formatVersion must be 2021-03-05, got '2020'",
        "deviceGroups.definitions.Group.selectionRule must be thingName: NAME",
        "deviceGroups.definitions.Other.policyName must be one of deviceGroups.policies (Policy, Empty), got 'Missing'",
        "deviceGroups.policies.Policy.Statement.operations must be of mqtt:connect",
        "deviceGroups.policies.Policy.Statement.resources must be *, mqtt:clientId",
        "deviceGroups.policies.Empty.Statement.operations must be a list of texts, got []",
        "deviceGroups.policies.Empty.Statement.resources must be a list of texts, got 3",
    ):
        assert part in text
    with pytest.raises(PermissionsError, match="deviceGroups must be an object, got 'all'"):
        parse_permissions("all")


@pytest.mark.parametrize("rule", ["", "thingName:", "thingName: a OR", "thingName: a b", "thingName: a*b", 3, None])
def test_a_selection_rule_that_is_none_is_refused(rule: Any) -> None:
    with pytest.raises(PermissionsError, match=r"Group\.selectionRule must be thingName: NAME, joined by OR and AND"):
        parse_permissions(groups(rule))


def test_mappings_are_read_as_documented_and_refused_with_their_place() -> None:
    entry = {"topic": "clients/+/out", "source": "LocalMqtt", "target": "IotCore", "targetTopicPrefix": "site-1/"}

    assert parse_mappings({"Up": entry}) == [Mapping("Up", "clients/+/out", "LocalMqtt", "IotCore", "site-1/")]
    assert parse_mappings(None) == parse_mappings({}) == []
    with pytest.raises(MappingError) as caught:
        parse_mappings({"Up": {**entry, "topic": "a#", "target": "LocalMqtt"}, "Down": {"source": "Cloud"}, "X": 1})
    for part in (
        "mqttTopicMapping.Up.topic must be a topic, or a filter with + and # as whole levels, got 'a#'",
        "mqttTopicMapping.Up.target must be another side than source, got 'LocalMqtt'",
        "mqttTopicMapping.Down.topic must be a topic",
        "mqttTopicMapping.Down.source must be one of LocalMqtt, Pubsub, IotCore, got 'Cloud'",
        "mqttTopicMapping.X must be an object, got 1",
    ):
        assert part in str(caught.value)
