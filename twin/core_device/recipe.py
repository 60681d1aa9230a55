"""A component version's recipe: what this device downloads, installs and runs of it."""

from __future__ import annotations

import platform as python_platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import DeploymentError
from .version import is_version

DEFAULT_STEP_TIMEOUT_S = 120.0  # the nucleus' default for every step but run
STEP_NAMES = ("install", "startup", "run")
_IGNORED_STEPS = ("bootstrap", "shutdown", "recover")
_COMPONENT_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]{1,128}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "aarch64", "armv7l": "arm"}


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
        executable: Its owner may execute it.
    """

    uri: str
    digest: str | None
    unzip: bool
    executable: bool

    @property
    def file_name(self) -> str:
        """The last part of the URI."""
        return re.split(r"[/:]", self.uri)[-1]


@dataclass(frozen=True)
class Step:
    """A lifecycle step: a shell script with its own variables."""

    name: str
    script: str
    timeout_s: float
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """A component version as it applies to this device."""

    name: str
    version: str
    default_configuration: Mapping[str, Any]
    dependencies: tuple[Dependency, ...]
    artifacts: tuple[Artifact, ...]
    steps: Mapping[str, Step]
    ignored_steps: tuple[str, ...] = ()


def device_platform() -> dict[str, str]:
    """The attributes that manifests are selected by; the runtime is that of nucleus lite, whose rules are kept."""
    machine = python_platform.machine()
    return {"os": "linux", "architecture": _ARCHITECTURES.get(machine, machine), "runtime": "aws_nucleus_lite"}


def is_component_name(name: Any) -> bool:
    """Tell whether a name is one that may also name a folder."""
    return isinstance(name, str) and _COMPONENT_NAME.fullmatch(name) is not None


def parse_recipe(document: Any, platform: Mapping[str, str]) -> Recipe:
    """Read a recipe in canonical JSON form and select its manifest for a platform.

    Raises:
        DeploymentError: The recipe is malformed, or none of its manifests fits.
    """
    try:
        name, version = document["ComponentName"], str(document["ComponentVersion"])
        if not is_component_name(name) or not is_version(version):
            raise ValueError(f"ComponentName {name!r} or ComponentVersion {version!r} is not valid")
        configuration = (document.get("ComponentConfiguration") or {}).get("DefaultConfiguration") or {}
        if not isinstance(configuration, dict):
            raise ValueError("DefaultConfiguration must be a map")
        manifest = _select(document.get("Manifests") or [], platform, f"{name} {version}")
        lifecycle = {key.lower(): value for key, value in (manifest.get("Lifecycle") or {}).items()}
        shared = _environment(lifecycle.get("setenv"))
        return Recipe(
            name=name,
            version=version,
            default_configuration=configuration,
            dependencies=_dependencies(document.get("ComponentDependencies") or {}),
            artifacts=tuple(_artifact(entry) for entry in manifest.get("Artifacts") or []),
            steps={step: _step(step, lifecycle[step], shared) for step in STEP_NAMES if lifecycle.get(step)},
            ignored_steps=tuple(step for step in _IGNORED_STEPS if lifecycle.get(step)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DeploymentError(f"a recipe is malformed: {type(exc).__name__}: {exc}", "COMPONENT_RECIPE_ERROR") from exc


def _select(manifests: list[Any], platform: Mapping[str, str], name: str) -> dict[str, Any]:
    offered = []
    for manifest in manifests:
        wanted = {key.lower(): str(value) for key, value in (manifest.get("Platform") or {}).items()}
        offered.append(wanted)
        # nucleus lite takes only a manifest that names its runtime or all of them
        wanted.setdefault("runtime", "aws_nucleus_classic")
        if all(_fits(attribute, value, platform.get(attribute)) for attribute, value in wanted.items()):
            return dict(manifest)
    raise DeploymentError(
        f"component {name} has no manifest for the platform {dict(platform)}, it offers {offered}: "
        'add a manifest with "os": "linux" and "runtime": "*"',
        "UNSUPPORTED_PLATFORM",
    )


def _fits(attribute: str, wanted: str, actual: str | None) -> bool:
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
    permission = str((entry.get("Permission") or {}).get("Execute") or "NONE")
    artifact = Artifact(
        uri=uri,
        digest=entry.get("Digest"),
        unzip=str(entry.get("Unarchive") or "NONE").upper() == "ZIP",
        executable=permission.upper() in ("OWNER", "ALL"),
    )
    if artifact.file_name in ("", ".", ".."):
        raise ValueError(f"the artifact {uri} has no file name")
    return artifact


def _step(name: str, entry: Any, shared: Mapping[str, str]) -> Step:
    if isinstance(entry, str):
        return Step(name, entry, DEFAULT_STEP_TIMEOUT_S, shared)
    fields = {key.lower(): value for key, value in entry.items()}
    script = fields.get("script")
    if not isinstance(script, str):
        raise ValueError(f"step {name} has no script")
    timeout_s = float(fields.get("timeout") or DEFAULT_STEP_TIMEOUT_S)
    return Step(name, script, timeout_s, {**shared, **_environment(fields.get("setenv"))})


def _environment(entries: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in (entries or {}).items()}
