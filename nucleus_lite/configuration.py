"""What nucleus lite can store and read of a component's configuration, whose buffers are fixed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nucleus_lite import OBSERVED, Fact

#: `${…}` is an escape, no variable.
_VARIABLE = re.compile(r"(?<!\$)\{[a-z]+:[^{}]*\}")
_ITEM_BYTES = 11
_PAIR_BYTES = 21

VALUE_BYTES = Fact(
    "a configuration value of more than {value} bytes as encoded JSON, in a recipe, in what a deployment merges or in "
    "UpdateConfiguration: 1,022 plain characters, escapes count, a list is one value",
    source=OBSERVED,
    rule="ConfigurationValueSize",
    twin="`must be at most 1024 bytes as encoded JSON`; over IPC ServiceError",
    shown_by="a default value above 1 kB",
    value=1024,
)
LEVELS = Fact(
    "a configuration of more than {value} levels, in a recipe, in what a deployment merges or in UpdateConfiguration",
    source=OBSERVED,
    rule="ConfigurationShape",
    twin="`must have at most 12 levels`; over IPC ServiceError",
    shown_by="a default configuration of 13 levels",
    value=12,
)
KEYS_OF_OBJECT = Fact(
    "more than {value} keys in one object of a configuration are not read back",
    source="ggconfigd/src/db_interface.c (MAX_CONFIG_CHILDREN_PER_OBJECT)",
    rule="ConfigurationShape",
    twin="`at most 64 keys in one object`",
    shown_by="65 keys in one object",
    value=64,
)
ACCESS_BYTES = Fact(
    "the access control of one service takes more than {value} bytes: every call of the component is refused",
    source="ggipcd/src/ipc_authz.c (policy_mem)",
    rule="AccessControlSize",
    twin="`at most 4096 bytes of memory`",
    shown_by="a large access control",
    value=4096,
)
ACCESS_VARIABLE = Fact(
    "a recipe variable in the access control (`{iot:thingName}`) is compared as it stands; a later commit fills it in",
    source="ggipcd/src/ipc_authz.c (policy_match; interpolate_policy_resource after 2.6.0)",
    rule="IpcTopicCharacter",
    twin="`is compared as it stands`",
    shown_by="the device's name in the access control",
)


def variables_in(policies: Any) -> list[str]:
    """The resources of one service's access control that hold a recipe variable.

    Args:
        policies: Name to policy.
    """
    found = policies.values() if isinstance(policies, Mapping) else ()
    listed = [policy.get("resources") for policy in found if isinstance(policy, Mapping)]
    texts = [topic for topics in listed if isinstance(topics, list) for topic in topics if isinstance(topic, str)]
    return [topic for topic in texts if _VARIABLE.search(topic)]


def memory_bytes(node: Any) -> int:
    """Memory that a copy takes (`gg/object.h`): texts, and the pairs and items that point at them.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return sum(memory_bytes(str(key)) + _PAIR_BYTES + memory_bytes(child) for key, child in node.items())
    if isinstance(node, list):
        return sum(_ITEM_BYTES + memory_bytes(child) for child in node)
    return len(node.encode(errors="surrogatepass")) if isinstance(node, str) else 0


def value_bytes(value: Any) -> int:
    """Bytes of a value as encoded JSON.

    Args:
        value: Parsed JSON.
    """
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass"))


def long_values(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Find the values of a configuration that are too long; a list is one value.

    Args:
        node: A configuration or a part of it.
        path: Where it is.

    Returns:
        Key path and bytes of each.
    """
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from long_values(child, (*path, str(key)))
    elif (size := value_bytes(node)) > VALUE_BYTES.value:
        yield path, size


def levels(node: Any) -> int:
    """Depth: 0 for a value, 1 for a list or an object of values.

    Args:
        node: Parsed JSON.
    """
    children = list(node.values()) if isinstance(node, Mapping) else node if isinstance(node, list) else None
    return 0 if children is None else 1 + max((levels(child) for child in children), default=0)


def widest(node: Any) -> int:
    """The most keys of one object.

    Args:
        node: Parsed JSON.
    """
    if not isinstance(node, Mapping) or not node:
        return 0
    return max(len(node), *(widest(child) for child in node.values()))
