"""The job document of a deployment, read and checked, and what it makes of the device."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twin.core_device.components.recipe import is_component_name, is_version
from twin.core_device.errors import DeploymentError
from twin.core_device.files import JSON_FILES, Documents

DOCUMENT_LIMIT_BYTES = 31 << 10  # Greengrass' quota for a thing group; for a thing it is 7 KiB
_CONFIGURATION_ARN = re.compile(r"arn:[\w-]+:greengrass:[\w-]+:\d{12}:configuration:(thing|thinggroup)/.+:\d+")


@dataclass(frozen=True)
class ComponentRequest:
    """What a deployment wants of a component.

    Args:
        version: The exact version.
        merge: Values to merge into its configuration.
        reset: Key paths to put back to their defaults, before the merge.
        configures: Whether it has a configuration at all, also one that changes nothing.
    """

    version: str
    merge: Mapping[str, Any]
    reset: tuple[tuple[str, ...], ...]
    configures: bool


@dataclass(frozen=True)
class DeploymentDocument:
    """A deployment.

    Args:
        deployment_id: Its id.
        configuration_arn: ARN of the target's revision.
        created_ms: When it was made, in milliseconds since the epoch.
        components: What it wants, by component name.
        rollback: Put the previous state back when it fails.
    """

    deployment_id: str
    configuration_arn: str
    created_ms: int
    components: Mapping[str, ComponentRequest]
    rollback: bool

    @property
    def target(self) -> str:
        """The target's name with its kind (`thinggroup/<name>`)."""
        return target_name(self.configuration_arn)


def parse_document(document: Any) -> DeploymentDocument:
    """Check a job document.

    Raises:
        DeploymentError: It is not a deployment, or larger than Greengrass allows.
    """
    if not isinstance(document, dict):
        raise _malformed(f"it must be a JSON object, got {type(document).__name__}")
    size = len(json.dumps(document, separators=(",", ":")))
    if size > DOCUMENT_LIMIT_BYTES:
        raise _malformed(f"it must be at most {DOCUMENT_LIMIT_BYTES} bytes, got {size}")
    arn = document.get("configurationArn")
    if not isinstance(arn, str) or not _CONFIGURATION_ARN.fullmatch(arn):
        raise _malformed(f"configurationArn must name a revision of a thing or thing group, got {arn!r}")
    components = document.get("components")
    if not isinstance(components, dict):
        raise _malformed(f"components must be an object, got {components!r}")
    created = document.get("creationTimestamp")
    if isinstance(created, bool) or not isinstance(created, int | float):
        raise _malformed(f"creationTimestamp must be a number, got {created!r}")
    return DeploymentDocument(
        deployment_id=str(document.get("deploymentId") or ""),
        configuration_arn=arn,
        created_ms=int(created),
        components={name: _component(name, entry) for name, entry in components.items()},
        rollback=document.get("failureHandlingPolicy", "ROLLBACK") != "DO_NOTHING",
    )


def _component(name: str, entry: Any) -> ComponentRequest:
    if not is_component_name(name):
        raise _malformed(f"{name!r} is not a component name")
    version = entry.get("version") if isinstance(entry, dict) else None
    if not isinstance(version, str) or not is_version(version):
        raise _malformed(f"components.{name}.version must be a semantic version, got {version!r}")
    update = entry.get("configurationUpdate") or {}
    merge = update.get("merge") if isinstance(update, dict) else None
    reset = update.get("reset") if isinstance(update, dict) else None
    if not isinstance(merge or {}, dict):
        raise _malformed(f"components.{name}.configurationUpdate.merge must be an object, got {merge!r}")
    if not isinstance(reset or [], list) or not all(isinstance(path, str) for path in reset or []):
        raise _malformed(f"components.{name}.configurationUpdate.reset must be a list of JSON pointers, got {reset!r}")
    paths = tuple(_pointer(path) for path in reset or [])
    return ComponentRequest(version, merge or {}, paths, entry.get("configurationUpdate") is not None)


def _pointer(text: str) -> tuple[str, ...]:
    """A JSON pointer's keys (RFC 6901); the empty one is the whole configuration."""
    return tuple(key.replace("~1", "/").replace("~0", "~") for key in text.split("/")[1:] if key)


def _malformed(reason: str) -> DeploymentError:
    return DeploymentError(f"the deployment document is malformed: {reason}", "DEPLOYMENT_DOCUMENT_NOT_VALID")


@dataclass(frozen=True)
class Target:
    """What one deployment target (`thinggroup/<name>`, `thing/<name>`) wants of this device.

    Args:
        configuration_arn: ARN of its latest revision here.
        deployment_id: The deployment of that revision.
        roots: Version by name of the components it names.
    """

    configuration_arn: str
    deployment_id: str
    roots: Mapping[str, str]

    @property
    def name(self) -> str:
        """The target's name with its kind, without the revision."""
        return target_name(self.configuration_arn)


@dataclass(frozen=True)
class DeployedSet:
    """The components on the device.

    Args:
        components: Version by name, dependencies included.
        targets: By name, who wants them.
        not_installed: Names of components whose install step is still to be run.
    """

    components: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    not_installed: Sequence[str] = ()

    def installed(self) -> set[str]:
        """Names of the components whose install step need not run again."""
        return set(self.components).difference(self.not_installed)

    def roots(self) -> set[str]:
        """Names of the components that a target names itself."""
        return {name for target in self.targets.values() for name in target.roots}

    def configuration_arns(self, component: str) -> list[str]:
        """The revisions that name a component."""
        return sorted(t.configuration_arn for t in self.targets.values() if component in t.roots)

    def save(self, path: Path, documents: Documents = JSON_FILES) -> None:
        """Write the set to a file."""
        documents.write(path, asdict(self))


def load_deployed_set(path: Path, documents: Documents = JSON_FILES) -> DeployedSet:
    """Read the set; no file is an empty set."""
    stored = documents.read(path) or {}
    targets = {name: Target(**entry) for name, entry in stored.get("targets", {}).items()}
    return DeployedSet(stored.get("components", {}), targets, stored.get("not_installed", ()))


def target_name(configuration_arn: str) -> str:
    """`thinggroup/G` of `arn:aws:greengrass:R:A:configuration:thinggroup/G:7`."""
    return configuration_arn.split(":configuration:", 1)[-1].rpartition(":")[0]
