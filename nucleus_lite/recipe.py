"""What nucleus lite takes of a recipe, and the systemd units that it makes of it.

Of a recipe: its size and form, its platform, its steps, its dependencies. Of the units: their names, their size, how
often they are started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nucleus_lite import OBSERVED, Fact

_RECIPE_C = "ggl-recipe/src/recipe.c"
_SUPPORT = "docs/RECIPE_SUPPORT_CHANGES.md"
_PARSER_C = "recipe2unit/src/parser.c"
_GENERATOR_C = "recipe2unit/src/unit_file_generator.c"
_COMPONENT = "core_device/test_component.py"

RUNTIME = Fact(
    "a manifest without `runtime` is skipped",
    source=f"{_RECIPE_C} (manifest_selection)",
    rule="PlatformRuntime",
    twin="`has no manifest for the platform`",
    shown_by="a manifest without runtime",
)
PATTERN = Fact(
    "no regular expressions in a manifest's platform",
    source=f"{_RECIPE_C}, {_SUPPORT}",
    rule="ArchitectureRegex",
    twin="the same, and why",
    shown_by="a pattern for the architecture",
)
FOREIGN_VARIABLE = Fact(
    "a script with a variable of another component (`{other:artifacts:path}`) is never run, and SUCCEEDED",
    source=_SUPPORT,
    rule="CrossComponentVariable",
    twin="`cut at character …`",
    shown_by="a variable of another component",
)
SHUTDOWN = Fact(
    "`shutdown` is never run",
    source=_SUPPORT,
    rule="LifecycleStep",
    twin="`never run`",
    shown_by="a shutdown step",
    value=("shutdown", "recover"),
)
RECOVER = Fact(
    "`recover` is never run",
    source=_SUPPORT,
    rule="LifecycleStep",
    twin="`never run`",
    shown_by="a recover step",
)
BOOTSTRAP = Fact(
    "a `bootstrap` step reboots the device, and the deployment's result never reaches the cloud",
    source=OBSERVED,
    rule="BootstrapStep",
    twin="`reboots the device`",
    shown_by="a bootstrap step",
)
SKIPIF = Fact(
    "`Skipif` is not known: the step is always run",
    source=_SUPPORT,
    rule="LifecycleStep",
    twin="`is not known`",
    shown_by="a Skipif",
)
BRACE = Fact(
    "any `{` that is no recipe variable cuts the script there: `${VAR}`, `f() {`, JSON",
    source="recipe-runner/src/runner.c (handle_escape)",
    rule="ScriptBrace",
    twin="`cut at character …, before …`",
    shown_by="a shell variable in braces",
)
MISSING_KEY = Fact(
    "a `{configuration:/x}` without such a key cuts the script there, and what stood before is run",
    source=OBSERVED,
    rule="ScriptVariable",
    twin="BROKEN: `is not in the component's configuration` (classic: stays as text)",
    shown_by="a variable of the configuration without its key",
)
VALUE_TEXT = Fact(
    'a `{configuration:/x}` gives text for double quotes: `"`, `$`, backticks and backslashes escaped, 1.0 as '
    "1.0000000000000000",
    source="recipe-runner/src/runner.c (insert_config_value)",
    rule="ScriptVariable",
    twin="the same; classic puts the value in as it is",
    shown_by="core_device/test_recipe.py::test_lite_gives_values_as_text_for_double_quotes",
)
STARTUP = Fact(
    "a `startup` step that ends with 0 fails: it waits for the component's word that it is ready",
    source=OBSERVED,
    rule="StartupStep",
    twin="`fails when it ends with 0` (one that stays and reports RUNNING would work there)",
    shown_by="a startup step",
)
INSTALL_ONLY = Fact(
    "an install step alone never becomes healthy",
    source=OBSERVED,
    rule="InstallOnly",
    twin="`give it a run step that ends with 0`",
    shown_by="an install step only",
)
SETENV = Fact(
    "setenv values: strings, without spaces, without quotes",
    source=OBSERVED,
    rule="SetenvValue",
    twin="`setenv.X must be …`",
    shown_by="a space in setenv",
)
BYTES = Fact(
    "a recipe of more than {value} bytes",
    source=f"{_RECIPE_C} (file_mem)",
    rule="RecipeSize",
    twin="`must be at most 8192 bytes`",
    shown_by="a recipe above 8 kB",
    value=8 * 1024,
)
PARTS = Fact(
    "a recipe of more than {value} parts, two a key and one an item of a list",
    source=f"{_RECIPE_C} (gg_arena_claim_obj), gg/object.h (GG_MAX_OBJECT_SUBOBJECTS)",
    rule="RecipeObjects",
    twin="`at most 255 parts`",
    shown_by="more than 255 parts",
    value=255,
)
RANGE = Fact(
    "a version requirement of anything but `>=` and `<` (`^`, `~`, `=`, a plain version) fails when the dependency was "
    "resolved before",
    source=OBSERVED,
    rule="DependencyRange",
    twin="the same: `already resolved … does not meet`",
    shown_by="a caret range of what is resolved already",
    value=re.compile(r"(>=|<)\d+\.\d+\.\d+([\s,]+(>=|<)\d+\.\d+\.\d+)*"),
)
HARD = Fact(
    "a HARD dependency that ends takes its dependents along (`BindsTo`)",
    source=f"{_GENERATOR_C} (BindsTo)",
    rule="HardDependency",
    twin="`stopped because its HARD dependency … has ended`",
    shown_by="a HARD dependency that ends",
)
STEP_SECONDS = Fact(
    "a step before `run` of more than {value} s: the deployment fails, the step goes on",
    source="ggdeploymentd/src/deployment_handler.c (wait_for_phase_status)",
    rule="StepTimeout",
    twin="the step's own time-out holds",
    shown_by=f"{_COMPONENT}::test_an_install_step_that_hangs_is_ended",
    value=300,
)
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
UNIT_BYTES = Fact(
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


def parts(node: Any) -> int:
    """Count as `GG_MAX_OBJECT_SUBOBJECTS` does: two for each key with its value, one for each item of a list.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return 2 * len(node) + sum(parts(child) for child in node.values())
    if isinstance(node, list):
        return len(node) + sum(parts(child) for child in node)
    return 0


def environment_problem(value: Any) -> str:
    """Why an environment value does not reach the process as it is written; empty where it does.

    Args:
        value: A value of `setenv`.
    """
    if not isinstance(value, str):
        return "a string"
    return "without spaces" if re.search(r"\s", value) else "without quotes" if re.search(r"[\"']", value) else ""


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
