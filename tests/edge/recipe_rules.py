"""The rules that let one recipe run on the classic nucleus, on nucleus lite and on the twin's core device."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

RECIPE_BYTES = 8 * 1024
VALUE_BYTES = 1024
ARCHITECTURES = {"amd64", "aarch64", "arm", "x86", "*"}
VARIABLE = re.compile(r"\{([a-z]+:[^{}]*)\}")
OWN_VARIABLES = re.compile(
    r"artifacts:(decompressedPath|path)|work:path|kernel:rootPath|iot:thingName|configuration:/.*"
)
PATH_VARIABLES = re.compile(r"\{(?:artifacts:(?:decompressedPath|path)|work:path|kernel:rootPath)\}(.?)")
ZIP_FOLDER = re.compile(r"\{artifacts:decompressedPath\}/([^/\"' ]+)/")
VERSION_RANGE = re.compile(r">=\d+\.\d+\.\d+ <\d+\.\d+\.\d+")
FORBIDDEN_STEPS = {"shutdown", "recover"}


def violations(recipe: Mapping[str, Any]) -> list[str]:
    """Check a recipe.

    Args:
        recipe: A parsed recipe without placeholders.

    Returns:
        One sentence a violation; none for a portable recipe.
    """
    return list(_violations(recipe))


def _violations(recipe: Mapping[str, Any]) -> Iterator[str]:
    size = len(json.dumps(recipe).encode())
    if size > RECIPE_BYTES:
        yield f"a recipe has at most {RECIPE_BYTES} bytes, got {size}"
    configuration = recipe.get("ComponentConfiguration", {}).get("DefaultConfiguration", {})
    yield from _configuration(configuration, "")
    yield from _topics(configuration.get("accessControl", {}))
    for name, dependency in recipe.get("ComponentDependencies", {}).items():
        if not VERSION_RANGE.fullmatch(dependency.get("VersionRequirement", "")):
            yield f"dependency {name}: a version range is written '>=a.b.c <d.e.f', got {dependency}"
        if dependency.get("DependencyType") != "SOFT":
            yield f"dependency {name} is SOFT: with a HARD one the dependent is stopped when the other's run step ends"
    if not recipe.get("Manifests"):
        yield "a recipe has manifests"
    for manifest in recipe.get("Manifests", []):
        yield from _manifest(manifest)


def _configuration(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _configuration(child, f"{path}/{key}")
    elif len(json.dumps(value).encode()) > VALUE_BYTES:
        yield f"configuration value {path} has at most {VALUE_BYTES} bytes"


def _topics(access_control: Mapping[str, Any]) -> Iterator[str]:
    for policies in access_control.values():
        for policy in policies.values():
            for resource in policy["resources"]:
                if re.search(r"[*+#]", resource):
                    yield f"topics in accessControl are exact, got {resource}"


def _manifest(manifest: Mapping[str, Any]) -> Iterator[str]:
    platform = manifest.get("Platform", {})
    if "os" not in platform or platform.get("runtime") != "*":
        yield f"Platform has os and runtime '*', got {platform}"
    if platform.get("architecture", "*") not in ARCHITECTURES:
        yield f"architecture is a plain name such as amd64 or aarch64, got {platform['architecture']}"
    if not isinstance(manifest.get("Artifacts"), list):
        yield "every manifest has a list of Artifacts, empty if need be"
    lifecycle = manifest.get("Lifecycle", {})
    for name in sorted(FORBIDDEN_STEPS & {step.lower() for step in lifecycle}):
        yield f"no {name} step"
    if "run" not in lifecycle:
        yield "a component has a run step, or it never becomes healthy"
    zips = {
        artifact["Uri"].rsplit("/", 1)[-1].removesuffix(".zip")
        for artifact in manifest.get("Artifacts") or []
        if artifact.get("Unarchive") == "ZIP"
    }
    for name, step in lifecycle.items():
        if name == "setenv":
            yield from _environment(step)
        else:
            yield from _step(name, step if isinstance(step, dict) else {"Script": step}, zips)


def _environment(variables: Mapping[str, Any]) -> Iterator[str]:
    for name, value in variables.items():
        if not isinstance(value, str) or re.search(r"[\s'\"]", value):
            yield f"setenv {name} is a string without spaces and quotes, got {value!r}"


def _step(name: str, step: Mapping[str, Any], zips: set[str]) -> Iterator[str]:
    if any(key.lower() == "skipif" for key in step):
        yield f"{name}: no Skipif"
    yield from _environment(step.get("Setenv", {}))
    script = step.get("Script", "")
    if "bash" in script:
        yield f"{name}: scripts are for /bin/sh"
    for variable in VARIABLE.findall(script):
        if not OWN_VARIABLES.fullmatch(variable):
            yield f"{name}: no variable of another component, got {{{variable}}}"
    if re.search(r"[{}]", VARIABLE.sub("", script)):
        yield f"{name}: a brace that is no recipe variable cuts the script off"
    for following in PATH_VARIABLES.findall(script):
        if following != "/":
            yield f"{name}: a path variable is followed by '/', got {following!r}"
    if script.count("{artifacts:decompressedPath}") != len(ZIP_FOLDER.findall(script)):
        yield f"{name}: {{artifacts:decompressedPath}} is followed by the name of a zip"
    for folder in ZIP_FOLDER.findall(script):
        if folder not in zips:
            yield f"{name}: {{artifacts:decompressedPath}}/{folder}/ is none of the unarchived artifacts {sorted(zips)}"
