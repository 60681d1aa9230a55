"""Rules on what the two nuclei read differently, or one of them not at all; each names its source.

Below them what they measure: room in nucleus lite's buffers, and the systemd units that it makes of recipes.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import PLACE, recipes
from edge_rules.rule import Finding, rule

ACCESS_BYTES = 4096
SUBOBJECTS = 255
CONFIGURATION_LEVELS = 10
CONFIGURATION_CHILDREN = 64
STEP_SECONDS = 300
#: What CreateComponentVersion adds to each artifact: Digest, Algorithm, Permission with Read and Execute.
_ADDED_TO_ARTIFACT = 10
_STEPS = {"install", "run", "startup", "bootstrap", "Setenv"}
_FIELDS = {"Script", "Timeout", "Setenv", "RequiresPrivilege"}
_ELSEWHERE = {"shutdown", "recover", "skipif"}
_VARIABLE = re.compile(r"\{((?:artifacts|work|kernel|iot|configuration):[^{}\s]*)\}")
_ALIKE = {"artifacts:path", "artifacts:decompressedPath", "work:path", "kernel:rootPath", "iot:thingName"}
_RECIPE_C = "ggl-recipe/src/recipe.c"


@rule(
    "LifecycleKey",
    "a lifecycle's keys must be spelt as nucleus lite looks them up",
    reason="it is case-sensitive and passes over another spelling: a step without environment, or none at all",
    fix="write install, run, startup, bootstrap and Setenv, and in a step Script, Timeout, Setenv, RequiresPrivilege",
    source=f"{_RECIPE_C}, docs/RECIPE_SUPPORT_CHANGES.md",
)
def keys_are_spelt_exactly(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, manifest in recipe.manifests:
            for name, step in (manifest.get("Lifecycle") or {}).items():
                fields = step if isinstance(step, Mapping) and name.lower() != "setenv" else {}
                wrong = [name] if name not in _STEPS else [field for field in fields if field not in _FIELDS]
                for key in wrong:
                    if key.lower() not in _ELSEWHERE:
                        yield Finding(recipe.resource, f"{place}/Lifecycle/{name}", key)


@rule(
    "StepTimeout",
    "the timeout of a step before run must be a whole number of seconds, at most 300",
    reason="nucleus lite fails the deployment after 300 s, while the step goes on",
    fix='write "Timeout": 300 or less, and do less in the step',
    source=f"{_RECIPE_C}, ggdeploymentd/src/deployment_handler.c (wait_for_phase_status)",
)
def timeouts_are_waited_for(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, name, step in recipe.steps():
            timeout = step.get("Timeout", 1)
            whole = re.fullmatch(r"\d+", str(timeout)) and not isinstance(timeout, bool)
            if not whole or (name != "run" and int(timeout) > STEP_SECONDS):
                yield Finding(recipe.resource, f"{place}/Timeout", str(timeout))


@rule(
    "ScriptVariable",
    "a script's variables must be those that both nuclei fill in alike",
    reason="nucleus lite cuts a script off at a variable that it does not know, and quotes the values of "
    "configuration, which the classic nucleus puts in as they are",
    fix="use artifacts:path, artifacts:decompressedPath, work:path, kernel:rootPath and iot:thingName, and read the "
    "configuration in the program",
    source="recipe-runner/src/runner.c (substitute_escape, insert_config_value)",
)
def variables_mean_the_same(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            for variable in _VARIABLE.findall(script):
                if variable not in _ALIKE:
                    yield Finding(recipe.resource, place, f"{{{variable}}}")


@rule(
    "RecipeObjects",
    "a recipe must have at most 255 parts: two a key, one an item of a list",
    reason="nucleus lite reads no object with more, and fails the deployment",
    fix="move settings into a file of the artifact, or split the component",
    source=f"{_RECIPE_C} (gg_arena_claim_obj), gg/object.h (GG_MAX_OBJECT_SUBOBJECTS)",
)
def recipes_have_few_parts(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        count = subobjects(recipe.body) + _ADDED_TO_ARTIFACT * len(list(recipe.artifacts()))
        if recipe.on_lite and count > SUBOBJECTS:
            yield Finding(recipe.resource, PLACE, f"{count} parts with those that the cloud adds")


@rule(
    "AccessControlSize",
    "the access control of one service must fit into 4096 bytes of nucleus lite's memory",
    reason="it is read as a whole at each call: with more, every call of the component is refused",
    fix="use fewer or shorter topics and no policyDescription, or split the component",
    source="ggipcd/src/ipc_authz.c (policy_mem)",
)
def access_control_fits(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for service, policies in (recipe.configuration.get("accessControl") or {}).items():
            size = arena_bytes(policies)
            if recipe.on_lite and size > ACCESS_BYTES:
                yield Finding(recipe.resource, f"{PLACE}/accessControl/{service}", f"{size} bytes")


@rule(
    "IpcTopicCharacter",
    "a topic in the access control must be without ?, $ and braces",
    reason="nucleus lite refuses ? and unknown escapes, and takes {…} for a variable where an older one compares it",
    fix="name the topic without them",
    source="ggl-policy-validation/src/policy_validation.c, ggipcd/src/ipc_authz.c (interpolate_policy_resource)",
)
def topics_are_plain(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, _, policy in recipe.access():
            for topic in policy.get("resources") or []:
                # The reserved topics begin with a dollar.
                if re.search(r"[?${}]", str(topic).removeprefix("$aws/")):
                    yield Finding(recipe.resource, place, str(topic))


@rule(
    "ConfigurationShape",
    "a default configuration must have at most 10 levels, and 64 keys in one object",
    reason="nucleus lite stores no key deeper than 15 with the four above it, and reads back 64 of an object",
    fix="make it flatter, or ship it as a file of the artifact",
    source="ggconfigd/src/db_interface.c (MAX_CONFIG_CHILDREN_PER_OBJECT), gg/object.h (GG_MAX_OBJECT_DEPTH)",
)
def configurations_are_flat(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        depth, widest = levels(recipe.configuration), _widest(recipe.configuration)
        if recipe.on_lite and (depth > CONFIGURATION_LEVELS or widest > CONFIGURATION_CHILDREN):
            yield Finding(recipe.resource, f"{PLACE}/ComponentConfiguration", f"{depth} levels, {widest} keys")


@rule(
    "ArtifactName",
    "the artifacts of a manifest must have different file names",
    reason="a nucleus puts them into one folder, and unpacks each zip into a folder of its name: the last one wins",
    fix="give each file a name of its own",
    source="ggdeploymentd/src/deployment_handler.c (get_recipe_artifacts, unarchive_artifact)",
)
def artifacts_do_not_meet(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, manifest in recipe.manifests:
            uris = [str(artifact.get("Uri", "")) for artifact in manifest.get("Artifacts") or []]
            names = Counter(uri.rsplit("/", 1)[-1] for uri in uris if "<" not in uri.rsplit("/", 1)[-1])
            for name in (name for name, count in names.items() if count > 1):
                yield Finding(recipe.resource, f"{place}/Artifacts", name)


@rule(
    "ComponentType",
    "a component must be of the type aws.greengrass.generic",
    reason="nucleus lite runs neither Lambda functions nor plugins of the classic nucleus",
    fix='write "ComponentType": "aws.greengrass.generic", or nothing',
    source="docs/RECIPE_SUPPORT_CHANGES.md",
)
def components_are_generic(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        kind = str(recipe.body.get("ComponentType", "aws.greengrass.generic"))
        if kind != "aws.greengrass.generic":
            yield Finding(recipe.resource, f"{PLACE}/ComponentType", kind)


def _widest(node: Any) -> int:
    if not isinstance(node, Mapping):
        return 0
    return max(len(node), *(_widest(child) for child in node.values())) if node else 0


#: Nucleus lite's buffers are fixed; sizes from `gg/object.h` of aws-greengrass-component-sdk.
_ITEM_BYTES = 11
_PAIR_BYTES = 21


def subobjects(node: Any) -> int:
    """Count as `GG_MAX_OBJECT_SUBOBJECTS` does: two for each key with its value, one for each item of a list.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return 2 * len(node) + sum(subobjects(child) for child in node.values())
    if isinstance(node, list):
        return len(node) + sum(subobjects(child) for child in node)
    return 0


def arena_bytes(node: Any) -> int:
    """Memory that a copy takes: texts, and the pairs and items that point at them.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return sum(len(str(key).encode()) + _PAIR_BYTES + arena_bytes(child) for key, child in node.items())
    if isinstance(node, list):
        return sum(_ITEM_BYTES + arena_bytes(child) for child in node)
    return len(node.encode()) if isinstance(node, str) else 0


def levels(node: Any) -> int:
    """Depth: 1 for a value, 2 for a list or an object of values.

    Args:
        node: Parsed JSON.
    """
    children = list(node.values()) if isinstance(node, Mapping) else node if isinstance(node, list) else None
    return 1 if children is None else 1 + max((levels(child) for child in children), default=0)


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
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


UNIT_BYTES = 2048
_PARSER_C = "recipe2unit/src/parser.c"
_GENERATOR_C = "recipe2unit/src/unit_file_generator.c"


@rule(
    "ComponentName",
    "a component's name must be one of a systemd unit, and no other component's",
    reason="nucleus lite runs ggl.<name>.service, ggl.<name>.install.service and, its own, ggl.core.<daemon>.service",
    fix="write letters, digits, '.', '-' and '_', at most 128, without core. before and .install or .bootstrap behind",
    source=f"{_PARSER_C} (unit_file_path), systemd.unit(5)",
)
def names_are_units(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        if recipe.name and (problem := name_problem(recipe.name)):
            yield Finding(recipe.resource, f"{PLACE}/ComponentName", f"{recipe.name[:60]!r} ({problem})")


@rule(
    "ComponentDescription",
    "a component's description must be one line without % and without a backslash at its end",
    reason="nucleus lite writes it into a systemd unit as it is: a second line there is a setting of its own",
    fix="write one plain sentence",
    source=f"{_GENERATOR_C} (fill_unit_section), systemd.unit(5)",
)
def descriptions_are_one_line(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        text = str(recipe.body.get("ComponentDescription", ""))
        if problem := description_problem(text):
            yield Finding(recipe.resource, f"{PLACE}/ComponentDescription", problem)


@rule(
    "UnitSize",
    "the systemd unit of a component must fit into 2048 bytes",
    reason="nucleus lite writes it into a buffer of that size: description and dependencies make it longer",
    fix="depend on fewer components, or give them shorter names",
    source=f"{_PARSER_C} (MAX_UNIT_FILE_BUF_SIZE)",
)
def units_fit(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        size = unit_bytes(recipe.body)
        if recipe.on_lite and size > UNIT_BYTES:
            yield Finding(recipe.resource, f"{PLACE}/ComponentDependencies", f"about {size} bytes")
