"""What the device runs, and who wants it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .files import read_json, write_json


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
    """

    components: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)

    def roots(self) -> set[str]:
        """Names of the components that a target names itself."""
        return {name for target in self.targets.values() for name in target.roots}

    def configuration_arns(self, component: str) -> list[str]:
        """The revisions that name a component."""
        return sorted(t.configuration_arn for t in self.targets.values() if component in t.roots)

    def save(self, path: Path) -> None:
        """Write the set to a file."""
        write_json(path, asdict(self))


def load_deployed_set(path: Path) -> DeployedSet:
    """Read the set; no file is an empty set."""
    stored = read_json(path) or {}
    targets = {name: Target(**entry) for name, entry in stored.get("targets", {}).items()}
    return DeployedSet(stored.get("components", {}), targets)


def target_name(configuration_arn: str) -> str:
    """`thinggroup/G` of `arn:aws:greengrass:R:A:configuration:thinggroup/G:7`."""
    return configuration_arn.split(":configuration:", 1)[-1].rpartition(":")[0]
