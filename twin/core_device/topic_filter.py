"""MQTT topic filters (MQTT 5, section 4.7)."""

from __future__ import annotations


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a filter covers a topic.

    Args:
        topic_filter: Levels, `+` for any one level, a last `#` for the rest (the parent level included).
        topic: Topic without wildcards; one that starts with `$` is not covered by a first-level wildcard.
    """
    levels, names = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and levels[0] in ("+", "#"):
        return False
    for at, level in enumerate(levels):
        if level == "#":
            return True
        if at >= len(names) or level not in ("+", names[at]):
            return False
    return len(levels) == len(names)
