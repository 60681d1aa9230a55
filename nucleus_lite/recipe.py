"""What nucleus lite takes of a recipe: its size and form, its platform, its steps, its dependencies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nucleus_lite import OBSERVED, Fact

_RECIPE_C = "ggl-recipe/src/recipe.c"
_SUPPORT = "docs/RECIPE_SUPPORT_CHANGES.md"

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
    source="recipe2unit/src/unit_file_generator.c (BindsTo)",
    rule="HardDependency",
    twin="`stopped because its HARD dependency … has ended`",
    shown_by="a HARD dependency that ends",
)
STEP_SECONDS = Fact(
    "a step before `run` of more than {value} s: the deployment fails, the step goes on",
    source="ggdeploymentd/src/deployment_handler.c (wait_for_phase_status)",
    rule="StepTimeout",
    twin="the step's own time-out holds",
    shown_by="core_device/test_component.py::test_an_install_step_that_hangs_is_ended",
    value=300,
)


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
