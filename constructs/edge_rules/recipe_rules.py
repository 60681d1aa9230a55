"""Rules on recipes: format, size, platform, dependencies, and the lifecycle steps with their scripts."""

import codecs
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from edge_rules.fleet_view import Finding, FleetView, rule
from edge_rules.recipe_view import PLACE, Recipe, merges_on_lite, parts_of, recipes
from nucleus_lite import configuration
from nucleus_lite import recipe as lite_recipe

RECIPE_BYTES = 16 * 1024
COMPONENT_BYTES = 2 * 1024**3
#: A longer file is no script.
SCRIPT_BYTES = 1 << 20
_RANGE = re.compile(r">=\d+\.\d+\.\d+ <\d+\.\d+\.\d+")
_NAMES = {"amd64", "aarch64", "arm", "x86", "*"}


@rule(
    "RecipeJson",
    "a recipe must be a JSON object",
    reason="in YAML nucleus lite reads every number and boolean as a string",
    fix="write the recipe in JSON",
    source="2.6.0",
)
def recipe_is_json(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        if recipe.document is None:
            yield Finding(recipe.resource, PLACE, f"starts with {recipe.text[:40]!r}")


@rule(
    "RecipeSize",
    "a recipe must fit into 16 KiB, and into 8 KiB where nucleus lite runs",
    reason="Greengrass refuses longer ones, and nucleus lite fails the deployment",
    fix="move scripts and settings into an artifact",
    source="ggl-recipe/src/recipe.c (file_mem); Greengrass quotas",
)
def recipe_fits(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        size = len(recipe.text.encode())
        # Only a component that names another nucleus than lite never meets its lower limit.
        runtimes = {
            str((manifest.get("Platform") or {}).get("runtime", "classic")) for _, manifest in recipe.manifests()
        }
        limit = RECIPE_BYTES if runtimes == {"classic"} else lite_recipe.BYTES.value
        if size > limit:
            yield Finding(recipe.resource, PLACE, f"{size} bytes, at most {limit}")


@rule(
    "ArtifactsTotal",
    "the artifacts of a component must not exceed 2 GiB",
    reason="Greengrass fails the deployment on every device",
    fix="split the component, or ship a smaller model",
)
def artifacts_fit(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        total = sum(file.stat().st_size for file in {file for _, file in recipe.files()} if file.is_file())
        if total > COMPONENT_BYTES:
            yield Finding(recipe.resource, f"{PLACE}/Artifacts", f"{total} bytes, at most {COMPONENT_BYTES}")


@rule(
    "ArtifactsList",
    "every manifest must have a list of Artifacts, empty if need be",
    reason="nucleus lite logs an error and skips a manifest without one",
    fix='add "Artifacts": []',
    source="ggl-recipe/src/recipe.c (ggl_get_recipe_artifacts_for_platform)",
)
def artifacts_are_listed(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
        if not isinstance(manifest.get("Artifacts"), list):
            yield Finding(recipe.resource, place, "no list of Artifacts")


@rule(
    "ArtifactKey",
    "the key of an artifact must hold a digest of its content",
    reason="a device that comes back later gets other bytes than the recipe was tested with, and refuses them",
    fix="publish the artifact under <prefix>/<sha256>/<name>",
)
def artifacts_are_addressed_by_content(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, artifact) in parts_of(fleet, Recipe.artifacts):
        uri = str(artifact.get("Uri", ""))
        if uri.startswith("s3://") and "<" not in uri.split("/", 3)[-1] and not re.search(r"[0-9a-f]{32}", uri):
            yield Finding(recipe.resource, place, uri)


@rule(
    "ArchitectureArm64",
    "a recipe must call 64-bit Arm aarch64",
    reason="no device matches arm64: the deployment fails with no applicable manifest",
    fix='write "architecture": "aarch64"',
    source="ggl-recipe/src/recipe.c (get_current_architecture)",
)
def arm_has_its_own_name(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
        if "arm64" in str((manifest.get("Platform") or {}).get("architecture", "")):
            yield Finding(recipe.resource, f"{place}/Platform/architecture", "arm64")


@rule(
    "ArchitectureRegex",
    "an architecture must be a plain name",
    reason="nucleus lite compares it as text: a regular expression matches no device",
    fix="write one manifest for each architecture",
    fact=lite_recipe.PATTERN,
)
def architecture_is_plain(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
        name = str((manifest.get("Platform") or {}).get("architecture", "*"))
        if name not in _NAMES and not re.fullmatch(r"\w+", name):
            yield Finding(recipe.resource, f"{place}/Platform/architecture", name)


@rule(
    "PlatformRuntime",
    'a manifest must say for which "os" and "runtime" it is',
    reason='without "runtime": "*" nucleus lite finds no applicable manifest',
    fix='write "Platform": {"os": "linux", "runtime": "*"}',
    fact=lite_recipe.RUNTIME,
)
def platform_is_complete(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
        platform = manifest.get("Platform") or {}
        if "os" not in platform or "runtime" not in platform:
            yield Finding(recipe.resource, f"{place}/Platform", json.dumps(platform))


@rule(
    "HardDependency",
    "a component must not depend HARD on another one",
    reason="on nucleus lite the dependent is stopped when the run step of the other ends, and the deployment "
    "still reports success",
    fix='write "DependencyType": "SOFT" and wait for what is needed at start',
    fact=lite_recipe.HARD,
)
def dependencies_are_soft(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for name, dependency in (recipe.body.get("ComponentDependencies") or {}).items():
            if dependency.get("DependencyType", "HARD") != "SOFT" and not name.startswith("aws.greengrass."):
                yield Finding(recipe.resource, f"{PLACE}/ComponentDependencies/{name}", "HARD")


@rule(
    "DependencyRange",
    "a dependency's version must be a range with >= and <",
    reason="nucleus lite fails with any other one where it has resolved the dependency before, as it has when the "
    "deployment names it",
    fix='write "VersionRequirement": ">=1.0.0 <2.0.0"',
    fact=lite_recipe.RANGE,
)
def ranges_are_understood(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for name, dependency in (recipe.body.get("ComponentDependencies") or {}).items():
            wanted = str(dependency.get("VersionRequirement", ""))
            if not _RANGE.fullmatch(wanted):
                yield Finding(recipe.resource, f"{PLACE}/ComponentDependencies/{name}", wanted or "no version")


@rule(
    "ConfigurationValueSize",
    "one value of a configuration must fit into 1,024 bytes of encoded JSON, a list being one value",
    reason="nucleus lite cannot store a longer one: the deployment fails, and where a deployment merges it the "
    "component stays silent",
    fix="split the value, or ship it in an artifact",
    fact=configuration.VALUE_BYTES,
)
def configuration_values_fit(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for path, size in configuration.long_values(recipe.configuration) if recipe.on_lite else ():
            yield Finding(recipe.resource, "/".join((PLACE, "ComponentConfiguration", *path)), f"{size} bytes")
    for deployment, place, merged in merges_on_lite(fleet):
        for path, size in configuration.long_values(merged):
            yield Finding(deployment, "/".join((place, *path)), f"{size} bytes")


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
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
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
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
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
    for recipe, (place, manifest) in parts_of(fleet, Recipe.manifests):
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
    for recipe, (place, name, step) in parts_of(fleet, Recipe.steps):
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
    for recipe, (place, _, step) in parts_of(fleet, Recipe.steps):
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
        for place, manifest in recipe.manifests():
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
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
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
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
        if found := _PATH.search(script):
            yield Finding(recipe.resource, place, found.group())


@rule(
    "Bash",
    "a script must be for /bin/sh",
    reason="images of small devices have no bash",
    fix="write it for /bin/sh",
)
def scripts_are_for_sh(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
        if re.search(r"\bbash\b", script):
            yield Finding(recipe.resource, place, "bash")


@rule(
    "NetworkInstall",
    "a step must install nothing from the network",
    reason="devices are behind firewalls or offline, and the next device gets other versions",
    fix="ship what is needed as an artifact, and install with pip install --no-index",
)
def steps_install_offline(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, script) in parts_of(fleet, Recipe.scripts):
        if found := _NETWORK.search(script):
            yield Finding(recipe.resource, place, found.group())


@rule(
    "LineEnds",
    "a shell script must end its lines with a line feed alone, and have no byte order mark",
    reason="with a carriage return or a byte order mark sh finds no command, and the kernel no interpreter",
    fix='declare "* text=auto eol=lf" in .gitattributes and check the file out anew, or save it as plain UTF-8',
)
def scripts_have_unix_line_ends(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, script in recipe.scripts():
            if told := _no_plain_script(script.encode()):
                yield Finding(recipe.resource, place, told)
        for _, archive in recipe.archives():
            for member, told in _no_plain_scripts(archive):
                yield Finding(recipe.resource, f"{PLACE}/Artifacts/{member}", told)


def _no_plain_script(content: bytes) -> str:
    """What a shell would trip over; empty where there is nothing."""
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "a byte order mark"
    return "a carriage return" if b"\r" in content else ""


@lru_cache(maxsize=64)
def _no_plain_scripts(archive: Path) -> tuple[tuple[str, str], ...]:
    """Shell scripts in a zip with such a thing: named .sh, or without a suffix and for an interpreter."""
    found = []
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            suffix = PurePosixPath(member.filename).suffix
            if suffix in ("", ".sh") and not member.is_dir() and member.file_size <= SCRIPT_BYTES:
                content = members.read(member)
                first = content.split(b"\n")[0]
                names_interpreter = first.removeprefix(codecs.BOM_UTF8).startswith(b"#!")
                if told := _no_plain_script(content if suffix else first if names_interpreter else b""):
                    found.append((member.filename, told))
    return tuple(found)
