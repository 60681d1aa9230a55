"""Messages between the components of a device."""

from __future__ import annotations

import pytest

from twin.core_device.ipc.service import LocalTopics


@pytest.mark.parametrize(
    ("topic_filter", "topic", "covered"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("+", "/a", False),
        ("+/+", "/a", True),
        ("#", "$SYS/a", False),
        ("+/a", "$SYS/a", False),
        ("$SYS/#", "$SYS/a", True),
    ],
)
def test_a_filter_covers_topics_as_mqtt_says(topic_filter: str, topic: str, covered: bool) -> None:
    topics, heard = LocalTopics(), []
    topics.subscribe("com.a", topic_filter, False, lambda to, _message: heard.append(to))

    topics.publish("com.b", topic, b"")

    assert heard == [topic] * covered


def test_each_of_two_subscriptions_to_one_filter_ends_by_itself() -> None:
    topics = LocalTopics()
    heard: list[str] = []
    end_first = topics.subscribe("com.a", "x", False, lambda _topic, _message: heard.append("first"))
    end_second = topics.subscribe("com.b", "x", False, lambda _topic, _message: heard.append("second"))
    topics.publish("com.c", "x", b"")

    end_first()
    topics.publish("com.c", "x", b"")
    end_second()
    topics.publish("com.c", "x", b"")

    assert heard == ["first", "second", "second"]


def test_a_component_that_wants_others_only_does_not_hear_itself() -> None:
    topics, heard = LocalTopics(), []
    topics.subscribe("com.a", "x", True, lambda topic, _message: heard.append(topic))

    topics.publish("com.a", "x", b"")
    topics.publish("com.b", "x", b"")

    assert heard == ["x"]
