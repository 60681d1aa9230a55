"""Recipes from templates (JSON files with placeholders such as `@VERSION@`), and the version that follows."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_RANGE = 1_000_000


def content_digest(*parts: str | bytes) -> str:
    """Digest of all that makes something what it is.

    Args:
        parts: Such as a recipe, digests of artifacts, settings; order matters.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("a content version needs at least one part, got none")
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # With its length, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def content_version(*parts: str | bytes) -> str:
    """Derive a version that Greengrass accepts.

    Args:
        parts: As for `content_digest`.

    Returns:
        `1.<0 to 999999>.<0 to 999999>`, so that `>=1.0.0 <2.0.0` covers every one.

    Raises:
        ValueError: There are no parts.
    """
    number = int(content_digest(*parts), 16)
    return f"1.{number % _RANGE}.{number // _RANGE % _RANGE}"


#: Part of every nucleus; a component that depends on it is given the device's credentials.
TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
_ANY_VERSION = ">=1.0.0 <2.0.0"


def soft_dependencies(components: Iterable[str], *, credentials: bool) -> dict[str, dict[str, str]]:
    """Write ComponentDependencies; SOFT ones, because nucleus lite ends a component with its HARD ones.

    Args:
        components: Of this app.
        credentials: Whether the component needs the token exchange role.

    Returns:
        Component to version range and kind.
    """
    ranges = dict.fromkeys(components, _ANY_VERSION) | ({TOKEN_EXCHANGE: ">=2.0.0 <3.0.0"} if credentials else {})
    return {name: {"VersionRequirement": versions, "DependencyType": "SOFT"} for name, versions in ranges.items()}


def local_access(component: str, *, subscribe: Iterable[str], publish: Iterable[str]) -> dict[str, Any]:
    """Write what `aws.greengrass.ipc.pubsub` of an access control allows: these local topics and nothing else.

    Args:
        component: Whose access control it is.
        subscribe: Exact topics that it listens to.
        publish: Exact topics that it publishes to.

    Returns:
        Policy's name to policy; none for an operation without topics.
    """
    wanted = {"SubscribeToTopic": list(subscribe), "PublishToTopic": list(publish)}
    return {
        f"{component}:{operation}": {"operations": [f"aws.greengrass#{operation}"], "resources": topics}
        for operation, topics in wanted.items()
        if topics
    }


_PLACEHOLDER = re.compile(r"@([A-Z][A-Z_]*)@")
#: Nucleus lite refuses longer recipes; Greengrass (its quotas) those that are longer still.
LIMIT_BYTES, CLASSIC_LIMIT_BYTES = 8192, 16384
_CLASSIC = "aws_nucleus_classic"


def fill_recipe(template: Path, values: Mapping[str, Any]) -> str:
    """Fill a recipe template.

    A text that is nothing but a placeholder becomes the value itself, of any JSON type; elsewhere, in keys too, the
    value's text is put in.

    Args:
        template: The JSON file.
        values: Placeholder without its `@`s to value.

    Returns:
        The recipe as JSON.

    Raises:
        ValueError: The file is no JSON, has a placeholder without a value, leaves a value unused, or the recipe is too
            long for a device.
    """
    try:
        content = json.loads(template.read_text(encoding="utf-8"))
    except json.JSONDecodeError as exc:
        raise ValueError(f"{template.name}: a recipe template must be JSON: {exc}") from exc
    used: set[str] = set()
    recipe = json.dumps(_fill(content, values, used, template.name))
    if unused := sorted(set(values) - used):
        raise ValueError(f"{template.name}: each value must have a placeholder, none for {', '.join(unused)}")
    limit = CLASSIC_LIMIT_BYTES if values.get("NUCLEUS") == _CLASSIC else LIMIT_BYTES
    if (size := len(recipe.encode())) > limit:
        fix = "split the stage" if limit == CLASSIC_LIMIT_BYTES else "set fleet.nucleus to classic, or split the stage"
        raise ValueError(
            f"{template.name}: a recipe must fit into {limit} bytes, got {size}: use fewer models or shorter names, "
            f"{fix}"
        )
    return recipe


def _fill(node: Any, values: Mapping[str, Any], used: set[str], where: str) -> Any:
    if isinstance(node, dict):
        return {str(_fill(key, values, used, where)): _fill(item, values, used, where) for key, item in node.items()}
    if isinstance(node, list):
        return [_fill(item, values, used, where) for item in node]
    if not isinstance(node, str):
        return node
    names = _PLACEHOLDER.findall(node)
    if missing := sorted(set(names) - set(values)):
        raise ValueError(f"{where}: each placeholder must have a value, none for @{'@, @'.join(missing)}@ in {node!r}")
    used.update(names)
    if names and node == f"@{names[0]}@":
        return values[names[0]]
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), node)
