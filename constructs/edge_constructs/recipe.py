"""Recipe templates: JSON files with placeholders such as `@VERSION@`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PLACEHOLDER = re.compile(r"@([A-Z][A-Z_]*)@")
#: Nucleus lite refuses longer recipes.
LIMIT_BYTES = 8192


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
    if len(recipe.encode()) > LIMIT_BYTES:
        raise ValueError(f"{template.name}: a recipe must fit into {LIMIT_BYTES} bytes, got {len(recipe.encode())}")
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
