"""Rules on the lifecycle steps of recipes."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import recipes
from edge_rules.rule import Finding, rule
from nucleus_lite import recipe as lite_recipe

_VARIABLE = re.compile(r"\{([A-Za-z][\w.-]*:[^{}\s]*)\}")
_OWN = re.compile(r"(artifacts|work|kernel|iot|configuration):.*")
_PATH = re.compile(r"\{(?:artifacts:(?:decompressedPath|path)|work:path|kernel:rootPath)\}(?!/)")
_UNPACKED = re.compile(r"\{artifacts:decompressedPath\}(?:/([^/\"' ]*))?")
_NETWORK = re.compile(r"\bpip3? +install\b(?!.*--no-index)|\b(?:curl|wget|apt-get|yum|dnf|npm)\b")


@rule(
    "CrossComponentVariable",
    "a script must not use variables of another component",
    reason="nucleus lite leaves {other.Component:artifacts:path} as it is",
    fix="let the other component write a pointer file that is read below {kernel:rootPath}/work/",
    fact=lite_recipe.FOREIGN_VARIABLE,
)
def variables_are_own(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            for variable in _VARIABLE.findall(script):
                if not _OWN.fullmatch(variable):
                    yield Finding(recipe.resource, place, f"{{{variable}}}")


@rule(
    "ScriptBrace",
    "a script must have no braces but those of recipe variables",
    reason="nucleus lite cuts the script off at ${VAR}, f() { and inline JSON",
    fix="put the logic into a file of the artifact",
    fact=lite_recipe.BRACE,
)
def scripts_have_no_braces(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            if found := re.search(r".{0,12}[{}].{0,12}", _VARIABLE.sub("", script)):
                yield Finding(recipe.resource, place, found.group())


@rule(
    "InstallOnly",
    "a component must have a run step",
    reason="one that only installs never becomes healthy, and the deployment times out",
    fix='add a run step that ends with 0, such as "true"',
    source="2.6.0",
)
def components_run(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, manifest in recipe.manifests:
            steps = {name.lower() for name in manifest.get("Lifecycle") or {}}
            if steps - {"setenv"} and not steps & {"run", "startup"}:
                yield Finding(recipe.resource, f"{place}/Lifecycle", ", ".join(sorted(steps)))


@rule(
    "StartupStep",
    "a lifecycle must start its program in run, not in startup",
    reason="nucleus lite fails a startup step that ends with 0, and the classic nucleus waits for that end",
    fix="write run, and prepare in install",
    fact=lite_recipe.STARTUP,
)
def programs_start_in_run(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, name, _ in recipe.steps() if recipe.on_lite else ():
            if name.lower() == "startup":
                yield Finding(recipe.resource, place, name)


@rule(
    "LifecycleStep",
    "a lifecycle must do without shutdown, recover and Skipif",
    reason="nucleus lite ignores them",
    fix="handle the end and the restart in the program itself",
    fact=lite_recipe.SHUTDOWN,
)
def steps_are_portable(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, name, step in recipe.steps():
            if name.lower() in lite_recipe.SHUTDOWN.value:
                yield Finding(recipe.resource, place, name)
            elif any(key.lower() == "skipif" for key in step):
                yield Finding(recipe.resource, place, "Skipif")


@rule(
    "RequiresPrivilege",
    "a step must not run as root",
    reason="a fault in the component becomes a fault of the whole device",
    fix="remove RequiresPrivilege and prepare the machine when it is provisioned",
)
def steps_have_no_privilege(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, _, step in recipe.steps():
            if str(step.get("RequiresPrivilege", False)).lower() == "true":
                yield Finding(recipe.resource, f"{place}/RequiresPrivilege", "true")


@rule(
    "SetenvValue",
    "an environment value must be a string without spaces and quotes",
    reason="nucleus lite writes it unquoted into a unit file: what follows the space is lost",
    fix="read the value from the configuration, or from a file of the artifact",
    source="2.6.0",
)
def environment_is_plain(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, manifest in recipe.manifests:
            lifecycle = manifest.get("Lifecycle") or {}
            for key, variables in lifecycle.items():
                if key.lower() == "setenv":
                    for name in _unportable(variables):
                        yield Finding(recipe.resource, f"{place}/Lifecycle/{key}/{name}", repr(variables[name]))
        for place, _, step in recipe.steps():
            for name in _unportable(step.get("Setenv", {})):
                yield Finding(recipe.resource, f"{place}/Setenv/{name}", repr(step["Setenv"][name]))


def _unportable(variables: Mapping[str, Any]) -> list[str]:
    return [name for name, value in variables.items() if lite_recipe.environment_problem(value)]


@rule(
    "UnpackedPath",
    "{artifacts:decompressedPath} must be followed by / and the name of the zip",
    reason="each zip is unpacked into a folder of its name",
    fix="write {artifacts:decompressedPath}/<zip without .zip>/",
    source="ggdeploymentd/src/deployment_handler.c (unarchive_artifact)",
)
def unpacked_path_names_the_zip(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            for found in _UNPACKED.finditer(script):
                if not found.group(1):
                    yield Finding(recipe.resource, place, found.group())


@rule(
    "PathSlash",
    "a path variable must be followed by /",
    reason="the classic nucleus gives the path without a trailing / and nucleus lite with one",
    fix="write {work:path}/ and so on",
    source="recipe-runner/src/runner.c (substitute_escape)",
)
def paths_end_with_a_slash(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            if found := _PATH.search(script):
                yield Finding(recipe.resource, place, found.group())


@rule(
    "Bash",
    "a script must be for /bin/sh",
    reason="images of small devices have no bash",
    fix="write it for /bin/sh",
)
def scripts_are_for_sh(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            if re.search(r"\bbash\b", script):
                yield Finding(recipe.resource, place, "bash")


@rule(
    "NetworkInstall",
    "a step must install nothing from the network",
    reason="devices are behind firewalls or offline, and the next device gets other versions",
    fix="ship what is needed as an artifact, and install with pip install --no-index",
)
def steps_install_offline(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            if found := _NETWORK.search(script):
                yield Finding(recipe.resource, place, found.group())
