"""The script that nucleus lite runs for a step, by the rules of its recipe runner.

They are those of `modules/recipe-runner/src/runner.c` and `modules/ggl-recipe/src/recipe.c` of aws-greengrass-lite,
told in our own words: a variable is all from `{` to the next `}`, at most 256 bytes, looked up by its part before and
behind the first colon; where that fails, what has been written so far is run all the same.
"""

from collections.abc import Mapping
from typing import Any

LONGEST_VARIABLE = 256


def lite_script(recipe: Mapping[str, Any], phase: str, root: str, thing: str) -> tuple[str, bool]:
    """Make the script of a step.

    Args:
        recipe: The recipe as stored on the device.
        phase: `install` or `run`.
        root: The nucleus' root folder.
        thing: The device's name.

    Returns:
        The script, and whether it is whole.
    """
    (manifest,) = recipe["Manifests"]
    step = manifest["Lifecycle"][phase]
    text = step if isinstance(step, str) else step["Script"]
    values = _values(recipe, root, thing)
    script, at = "#!/bin/sh\n", 0
    while at < len(text):
        if text[at] != "{":
            script, at = script + text[at], at + 1
            continue
        end = text.find("}", at)
        if end < 0 or end - at - 1 > LONGEST_VARIABLE or text[at + 1 : end] not in values:
            return script, False
        script, at = script + values[text[at + 1 : end]], end + 1
    return script, True


def _values(recipe: Mapping[str, Any], root: str, thing: str) -> dict[str, str]:
    component = f"{recipe['ComponentName']}/{recipe['ComponentVersion']}/"
    return {
        "kernel:rootPath": root,
        "iot:thingName": thing,
        "work:path": f"{root}/work/{recipe['ComponentName']}/",
        "artifacts:path": f"{root}/packages/artifacts/{component}",
        "artifacts:decompressedPath": f"{root}/packages/artifacts-unarchived/{component}",
    }
