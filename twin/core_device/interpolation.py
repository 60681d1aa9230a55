"""The variables of a recipe, such as `{artifacts:path}`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from .dialect import VARIABLE
from .errors import DeploymentError
from .files import Layout


def recipe_variables(layout: Layout, component: str, version: str, thing_name: str) -> dict[str, str]:
    """The variables that have a fixed value; path values have no trailing slash, so scripts must write it."""
    return {
        "artifacts:path": str(layout.artifacts(component, version)),
        "artifacts:decompressedPath": str(layout.unarchived(component, version)),
        "work:path": str(layout.work(component)),
        "kernel:rootPath": str(layout.root),
        "iot:thingName": thing_name,
    }


def interpolate(text: str, variables: Mapping[str, str], configuration: Callable[[tuple[str, ...]], Any]) -> str:
    """Replace the variables in a script or an environment value.

    Args:
        text: The text; braces that are no variable of these namespaces stay as they are.
        variables: From `recipe_variables`.
        configuration: The value at a key path of the component's configuration; a `KeyError` when there is none.

    Raises:
        DeploymentError: A variable of a known namespace does not exist.
    """

    def value(match: re.Match[str]) -> str:
        name = f"{match[1]}:{match[2]}"
        if match[1] == "configuration":
            key_path = tuple(key for key in match[2].split("/") if key)
            try:
                found = configuration(key_path)
            except KeyError as exc:
                raise DeploymentError(f"{{{name}}} is not in the component's configuration") from exc
            return found if isinstance(found, str) else json.dumps(found, separators=(",", ":"))
        if name not in variables:
            known = ", ".join(f"{{{known}}}" for known in variables)
            raise DeploymentError(f"{{{name}}} is not a recipe variable, known are {known}, {{configuration:/<key>}}")
        return variables[name]

    return VARIABLE.sub(value, text)
