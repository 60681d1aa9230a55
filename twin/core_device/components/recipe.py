"""A component version's recipe: what this device downloads, installs and runs of it."""

from __future__ import annotations

import platform as python_platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twin.core_device.dialect import LITE, Dialect, check_recipe
from twin.core_device.errors import DeploymentError

DEFAULT_STEP_TIMEOUT_S = 120.0  # the nucleus' default for every step but run and these
_PERMISSION_DEFAULTS = {"Read": "OWNER", "Execute": "NONE"}
_DEFAULT_TIMEOUTS_S = {"shutdown": 15.0, "recover": 60.0}
STEP_NAMES = ("install", "startup", "run")
CLASSIC_STEP_NAMES = ("bootstrap", *STEP_NAMES, "shutdown", "recover")
_COMPONENT_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,128}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64", "armv7l": "arm"}
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_COMPARATOR = re.compile(r"(>=|<=|>|<|==|=)?\s*([^\s<>=]+)")


@dataclass(frozen=True)
class Dependency:
    """Another component that this one needs; a HARD one must run first, a SOFT one is only started first."""

    name: str
    requirement: str
    hard: bool


@dataclass(frozen=True)
class Artifact:
    """A file that the component needs.

    Args:
        uri: `s3://bucket/key` or `greengrass:name`.
        digest: Base64 of its SHA-256; None when the recipe has none.
        unzip: Unpack it as a ZIP archive.
        mode: Rights that the recipe's Permission gives to it, or to every file of the archive; None without one.
    """

    uri: str
    digest: str | None
    unzip: bool
    mode: int | None

    @property
    def file_name(self) -> str:
        """The last part of the URI."""
        return re.split(r"[/:]", self.uri)[-1]


@dataclass(frozen=True)
class Step:
    """A lifecycle step: a shell script with its own variables.

    `skip_if` is `onpath <program>` or `exists <file>`; the step is left out where that is so. Empty: never.
    """

    name: str
    script: str
    timeout_s: float
    environment: Mapping[str, str]
    skip_if: str = ""


@dataclass(frozen=True)
class Recipe:
    """A component version as it applies to this device."""

    name: str
    version: str
    default_configuration: Mapping[str, Any]
    dependencies: tuple[Dependency, ...]
    artifacts: tuple[Artifact, ...]
    steps: Mapping[str, Step]


def device_platform(dialect: Dialect = LITE, architecture: str = "") -> dict[str, str]:
    """The attributes that manifests are selected by; the runtime is that of the nucleus whose rules are kept.

    Args:
        dialect: The nucleus.
        architecture: As Greengrass names it; this machine's by default.
    """
    machine = python_platform.machine()
    architecture = architecture or _ARCHITECTURES.get(machine, machine)
    return {"os": "linux", "architecture": architecture, "runtime": dialect.runtime}


def is_component_name(name: Any) -> bool:
    """Tell whether a name is one that may also name a folder."""
    return isinstance(name, str) and _COMPONENT_NAME.fullmatch(name) is not None


def parse_recipe(document: Any, platform: Mapping[str, str], dialect: Dialect = LITE) -> Recipe:
    """Read a recipe in canonical JSON form and select its manifest for a platform.

    Raises:
        DeploymentError: The recipe is malformed, none of its manifests fits, or it does not work with the dialect.
    """
    step_names = CLASSIC_STEP_NAMES if dialect.all_steps else STEP_NAMES
    try:
        name, version = document["ComponentName"], str(document["ComponentVersion"])
        if not is_component_name(name) or not is_version(version):
            raise ValueError(f"ComponentName {name!r} or ComponentVersion {version!r} is not valid")
        configuration = (document.get("ComponentConfiguration") or {}).get("DefaultConfiguration") or {}
        if not isinstance(configuration, dict):
            raise ValueError("DefaultConfiguration must be a map")
        manifest = _select(document.get("Manifests") or [], platform, f"{name} {version}", dialect)
        if dialect is LITE:
            check_recipe(document, manifest)
        lifecycle = {key.lower(): value for key, value in (manifest.get("Lifecycle") or {}).items()}
        shared = _environment(lifecycle.get("setenv"))
        return Recipe(
            name=name,
            version=version,
            default_configuration=configuration,
            dependencies=_dependencies(document.get("ComponentDependencies") or {}),
            artifacts=tuple(_artifact(entry) for entry in manifest.get("Artifacts") or []),
            steps={step: _step(step, lifecycle[step], shared) for step in step_names if lifecycle.get(step)},
        )
    except (KeyError, TypeError, ValueError, AttributeError, re.error) as exc:
        raise DeploymentError(f"a recipe is malformed: {type(exc).__name__}: {exc}", "COMPONENT_RECIPE_ERROR") from exc


def _select(manifests: list[Any], platform: Mapping[str, str], name: str, dialect: Dialect) -> dict[str, Any]:
    offered = []
    for manifest in manifests:
        wanted = {key.lower(): str(value) for key, value in (manifest.get("Platform") or {}).items()}
        offered.append(wanted)
        # nucleus lite takes only a manifest that names its runtime or all of them
        wanted.setdefault("runtime", "aws_nucleus_classic")
        if all(_fits(attribute, value, platform.get(attribute), dialect) for attribute, value in wanted.items()):
            return dict(manifest)
    raise DeploymentError(
        f"component {name} has no manifest for the platform {dict(platform)}, it offers {offered}: "
        'add a manifest with "os": "linux" and "runtime": "*"; nucleus lite knows no regular expressions in it',
        "UNSUPPORTED_PLATFORM",
    )


def _fits(attribute: str, wanted: str, actual: str | None, dialect: Dialect) -> bool:
    if dialect.patterns and actual is not None and len(wanted) > 1 and wanted[0] == wanted[-1] == "/":
        return re.fullmatch(wanted[1:-1], actual) is not None
    return wanted == "*" or (attribute == "os" and wanted == "all") or wanted == actual


def _dependencies(entries: dict[str, Any]) -> tuple[Dependency, ...]:
    found = []
    for name, entry in entries.items():
        if not is_component_name(name):
            raise ValueError(f"the dependency {name!r} is not a component name")
        kind = str(entry.get("DependencyType") or "HARD").upper()
        requirement = str(entry.get("VersionRequirement") or ">=0.0.0")
        found.append(Dependency(name, requirement, kind == "HARD"))
    return tuple(found)


def _artifact(entry: dict[str, Any]) -> Artifact:
    uri = str(entry["Uri"])
    algorithm = str(entry.get("Algorithm") or "SHA-256")
    if algorithm != "SHA-256":
        raise ValueError(f"the artifact {uri} has a digest by {algorithm}, known is SHA-256")
    artifact = Artifact(
        uri=uri,
        digest=entry.get("Digest"),
        unzip=str(entry.get("Unarchive") or "NONE").upper() == "ZIP",
        mode=_mode(entry.get("Permission")),
    )
    if artifact.file_name in ("", ".", ".."):
        raise ValueError(f"the artifact {uri} has no file name")
    return artifact


def _mode(permission: Mapping[str, Any] | None) -> int | None:
    """The rights that a recipe's Permission stands for; the group counts as the owner, who can always read."""
    if permission is None:
        return None
    read, execute = (str(permission.get(key) or default).upper() for key, default in _PERMISSION_DEFAULTS.items())
    return (
        0o400
        | (0o040 if read != "NONE" or execute != "NONE" else 0)
        | (0o004 if "ALL" in (read, execute) else 0)
        | (0o110 if execute != "NONE" else 0)
        | (0o001 if execute == "ALL" else 0)
    )


def _step(name: str, entry: Any, shared: Mapping[str, str]) -> Step:
    default_s = _DEFAULT_TIMEOUTS_S.get(name, DEFAULT_STEP_TIMEOUT_S)
    if isinstance(entry, str):
        return Step(name, entry, default_s, shared)
    fields = {key.lower(): value for key, value in entry.items()}
    script = fields.get("script")
    if not isinstance(script, str):
        raise ValueError(f"step {name} has no script")
    timeout_s = float(fields.get("timeout") or default_s)
    environment = {**shared, **_environment(fields.get("setenv"))}
    return Step(name, script, timeout_s, environment, str(fields.get("skipif") or ""))


def _environment(entries: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in (entries or {}).items()}


_TESTS: dict[str, Any] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def is_version(text: str) -> bool:
    """Tell whether a text is a full semantic version."""
    return _VERSION.fullmatch(text) is not None


def is_pre_release(version: str) -> bool:
    """Tell whether a version is one before a release, such as `1.0.0-rc.1`."""
    match = _VERSION.fullmatch(version)
    return match is not None and match[4] is not None


def satisfies(version: str, requirement: str) -> bool:
    """Tell whether a version is in a range of comparators that must all hold: `1.0.0`, `>=1.0.0 <2.0.0`.

    A range in another notation (`^1.2`, `1.x`, `||`) is answered with False: the caller then asks the cloud, which
    knows every notation.
    """
    key = _key(version)
    comparators = _COMPARATOR.findall(requirement.replace(",", " "))
    if key is None or not comparators:
        return False
    for operator, bound_text in comparators:
        bound = _key(bound_text)
        if bound is None:
            return False
        if not _TESTS.get(operator, lambda a, b: a == b)(key, bound):
            return False
    return True


def is_range(text: str) -> bool:
    """Tell whether `satisfies` understands a range."""
    comparators = _COMPARATOR.findall(text.replace(",", " "))
    return bool(comparators) and all(is_version(bound) for _operator, bound in comparators)


def _key(version: str) -> tuple[Any, ...] | None:
    match = _VERSION.fullmatch(version)
    if not match:
        return None
    release = tuple(int(part) for part in match.groups()[:3])
    if match[4] is None:
        return (*release, 1)
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in match[4].split("."))
    return (*release, 0, parts)
