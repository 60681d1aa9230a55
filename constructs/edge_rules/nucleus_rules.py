"""Rules on what the two nuclei read differently, and on the units that nucleus lite makes; each names its source."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from edge_rules.fleet_view import Finding, FleetView, rule
from edge_rules.recipe_view import PLACE, Recipe, merges_on_lite, parts_of, recipes
from nucleus_lite import configuration
from nucleus_lite import recipe as lite_recipe

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
    fix="write install, run and Setenv, and in a step Script, Timeout, Setenv, RequiresPrivilege",
    source=f"{_RECIPE_C}, docs/RECIPE_SUPPORT_CHANGES.md",
)
def keys_are_spelt_exactly(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
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
    for recipe, (place, name, step) in parts_of(fleet, Recipe.steps):
        timeout = step.get("Timeout", 1)
        whole = re.fullmatch(r"\d+", str(timeout)) and not isinstance(timeout, bool)
        if not whole or (name != "run" and int(timeout) > lite_recipe.STEP_SECONDS.value):
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
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
        for variable in _VARIABLE.findall(script):
            if variable not in _ALIKE:
                yield Finding(recipe.resource, place, f"{{{variable}}}")


@rule(
    "RecipeObjects",
    "a recipe must have at most 255 parts: two a key, one an item of a list",
    reason="nucleus lite reads no object with more, and fails the deployment",
    fix="move settings into a file of the artifact, or split the component",
    fact=lite_recipe.PARTS,
)
def recipes_have_few_parts(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        count = lite_recipe.parts(recipe.body) + _ADDED_TO_ARTIFACT * len(list(recipe.artifacts()))
        if recipe.on_lite and count > lite_recipe.PARTS.value:
            yield Finding(recipe.resource, PLACE, f"{count} parts with those that the cloud adds")


@rule(
    "AccessControlSize",
    "the access control of one service must fit into 4096 bytes of nucleus lite's memory",
    reason="it is read as a whole at each call: with more, every call of the component is refused",
    fix="use fewer or shorter topics and no policyDescription, or split the component",
    fact=configuration.ACCESS_BYTES,
)
def access_control_fits(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for service, policies in (recipe.configuration.get("accessControl") or {}).items():
            size = configuration.memory_bytes(policies)
            if recipe.on_lite and size > configuration.ACCESS_BYTES.value:
                yield Finding(recipe.resource, f"{PLACE}/accessControl/{service}", f"{size} bytes")


@rule(
    "IpcTopicCharacter",
    "a topic in the access control must be without ?, $ and braces, but for {iot:thingName} on the classic nucleus",
    reason="nucleus lite refuses ? and unknown escapes, and takes {…} for a variable where an older one compares it",
    fix='name the topic without them, or write "runtime": "aws_nucleus_classic"',
    source="ggl-policy-validation/src/policy_validation.c, ggipcd/src/ipc_authz.c (interpolate_policy_resource)",
    fact=configuration.ACCESS_VARIABLE,
)
def topics_are_plain(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, _, policy) in parts_of(fleet, Recipe.access):
        for topic in policy.get("resources") or []:
            # The reserved topics begin with a dollar.
            plain = str(topic).removeprefix("$aws/")
            if re.search(r"[?${}]", plain if recipe.on_lite else plain.replace("{iot:thingName}", "")):
                yield Finding(recipe.resource, place, str(topic))


@rule(
    "ConfigurationShape",
    "a configuration must have at most 12 levels, and 64 keys in one object",
    reason="nucleus lite stores no deeper one, and reads back 64 keys of an object",
    fix="make it flatter, or ship it as a file of the artifact",
    source="2.6.0; ggconfigd/src/db_interface.c (MAX_CONFIG_CHILDREN_PER_OBJECT)",
)
def configurations_are_flat(fleet: FleetView) -> Iterator[Finding]:
    places = [
        (recipe.resource, f"{PLACE}/ComponentConfiguration", recipe.configuration)
        for recipe in recipes(fleet)
        if recipe.on_lite
    ]
    for resource, place, content in [*places, *merges_on_lite(fleet)]:
        depth, widest = configuration.levels(content), configuration.widest(content)
        if depth > configuration.LEVELS.value or widest > configuration.KEYS_OF_OBJECT.value:
            yield Finding(resource, place, f"{depth} levels, {widest} keys")


@rule(
    "ArtifactName",
    "the artifacts of a manifest must have different file names",
    reason="a nucleus puts them into one folder, and unpacks each zip into a folder of its name: the last one wins",
    fix="give each file a name of its own",
    source="ggdeploymentd/src/deployment_handler.c (get_recipe_artifacts, unarchive_artifact)",
)
def artifacts_do_not_meet(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
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


@rule(
    "ComponentName",
    "a component's name must be one of a systemd unit, and no other component's",
    reason="nucleus lite runs ggl.<name>.service, ggl.<name>.install.service and, its own, ggl.core.<daemon>.service",
    fix="write letters, digits, '.', '-' and '_', at most 128, without core. before and .install or .bootstrap behind",
    fact=lite_recipe.NAME,
)
def names_are_units(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        if recipe.name and (problem := lite_recipe.name_problem(recipe.name)):
            yield Finding(recipe.resource, f"{PLACE}/ComponentName", f"{recipe.name[:60]!r} ({problem})")


@rule(
    "ComponentDescription",
    "a component's description must be one line without % and without a backslash at its end",
    reason="nucleus lite writes it into a systemd unit as it is: a second line there is a setting of its own",
    fix="write one plain sentence",
    fact=lite_recipe.DESCRIPTION,
)
def descriptions_are_one_line(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        text = str(recipe.body.get("ComponentDescription", ""))
        if problem := lite_recipe.description_problem(text):
            yield Finding(recipe.resource, f"{PLACE}/ComponentDescription", problem)


@rule(
    "UnitSize",
    "the systemd unit of a component must fit into 2048 bytes",
    reason="nucleus lite writes it into a buffer of that size: description and dependencies make it longer",
    fix="depend on fewer components, or give them shorter names",
    fact=lite_recipe.UNIT_BYTES,
)
def units_fit(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        size = lite_recipe.unit_bytes(recipe.body)
        if recipe.on_lite and size > lite_recipe.UNIT_BYTES.value:
            yield Finding(recipe.resource, f"{PLACE}/ComponentDependencies", f"about {size} bytes")
