"""The systemd units that nucleus lite makes of a recipe: their names, their size, how often they are started."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nucleus_lite import OBSERVED, Fact

_PARSER_C = "recipe2unit/src/parser.c"
_GENERATOR_C = "recipe2unit/src/unit_file_generator.c"
_COMPONENT = "core_device/test_component.py"

NAME = Fact(
    "a component's name that is none of a systemd unit, or another unit's",
    source=f"{_PARSER_C} (unit_file_path), systemd.unit(5)",
    rule="ComponentName",
    twin="`must be one of a systemd unit`",
    shown_by="core_device/test_dialect.py::test_lite_refuses_names_of_other_units",
)
DESCRIPTION = Fact(
    "a description of more than one line, with `%`, or with a backslash at its end",
    source=f"{_GENERATOR_C} (fill_unit_section), systemd.unit(5)",
    rule="ComponentDescription",
    twin="`must be one plain line`",
    shown_by="a description of two lines",
)
BYTES = Fact(
    "a unit of more than {value} bytes: description and dependencies make it longer",
    source=f"{_PARSER_C} (MAX_UNIT_FILE_BUF_SIZE)",
    rule="UnitSize",
    twin="`its systemd unit must be at most 2048 bytes`",
    shown_by="a long systemd unit",
    value=2048,
)
START_WINDOW_S = 3_600.0
"""systemd counts the starts of so long, in seconds, whatever ran well between them."""
ATTEMPTS = Fact(
    "a `run` step that fails is started {value} times within 3,600 s, then the component is BROKEN until the next "
    "deployment, or `systemctl reset-failed`; one that ends every 15 s is so for good",
    source=OBSERVED,
    twin="the same (classic: in a row; a component that ran for 10 s begins anew)",
    shown_by=f"{_COMPONENT}::test_lite_counts_the_failures_of_an_hour_whatever_ran_well_between_them",
    value=3,
)
INSTALL_ATTEMPTS = Fact(
    "an `install` step that fails or takes longer than its time-out (120 s) is tried 3 times",
    source=OBSERVED,
    twin="the same (classic: once)",
    shown_by=f"{_COMPONENT}::test_lite_tries_an_install_step_three_times",
)

_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,128}")
#: Everything but names, version, description and dependencies, with the usual root folder and users.
_FIXED_BYTES = 640
#: `Wants=ggl..service` and `After=ggl..service`, each with its line's end.
_DEPENDENCY_BYTES = 38
_NAMES_IN_UNIT = 3


def name_problem(name: str) -> str:
    """Why a component's name cannot be one of a unit; empty where it can.

    Args:
        name: The component's name.
    """
    if not _NAME.fullmatch(name):
        return "characters or length"
    if name.startswith("core."):
        return "a unit of the nucleus itself"
    return "a step's unit of another component" if name.endswith((".install", ".bootstrap")) else ""


def description_problem(text: str) -> str:
    """Why a description cannot stand in a unit; empty where it can.

    Args:
        text: The component's description.
    """
    if re.search(r"[\r\n]", text):
        return "more than one line"
    return "% is a specifier of systemd" if "%" in text else "a backslash at its end" if text.endswith("\\") else ""


def unit_bytes(recipe: Mapping[str, Any]) -> int:
    """About how long the unit of the run step is.

    Args:
        recipe: The parsed recipe.
    """
    texts = [str(recipe.get("ComponentName", ""))] * _NAMES_IN_UNIT
    texts += [str(recipe.get("ComponentVersion", "")), str(recipe.get("ComponentDescription", ""))]
    dependencies = recipe.get("ComponentDependencies") or {}
    lines = sum(_DEPENDENCY_BYTES + 2 * len(name.encode()) for name in dependencies)
    return _FIXED_BYTES + sum(len(text.encode()) for text in texts) + lines
