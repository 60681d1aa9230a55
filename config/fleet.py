"""What a stage's file may say of its devices, their rings, and how deployments reach them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from config.roster import FileName, Listing, RosterError, ThingName, read_list
from config.section import Section

Ring = Literal["canary", "early", "all"]
#: In the order of a rollout; a device is in exactly one, because two deployments on one device would contradict.
RINGS: tuple[Ring, ...] = ("canary", "early", "all")
_LAST = RINGS[-1]
#: CloudFormation gives a custom resource an hour.
LONGEST_WAIT_MIN = 50


@dataclass(frozen=True, order=True)
class Device:
    """A row: thing name and ring, `all` unless the file says otherwise."""

    name: str
    ring: str = _LAST


def read_roster(path: Path) -> tuple[Device, ...]:
    """Read and check a list of devices.

    Args:
        path: As of `read_list`, with the column `ring`.

    Returns:
        The devices, sorted by name.

    Raises:
        RosterError: The file is missing or unreadable, or rows break rules.
    """
    return tuple(Device(name, ring or _LAST) for name, ring in read_list(path, "ring", _RING).items())


_RING = Listing("a ring", lambda ring: "" if ring in RINGS else f"must be one of {', '.join(RINGS)}")


class Fleet(Section):
    """The devices that the stage registers, besides its edge server.

    Attributes:
        devices: Thing names; empty by default. They are in the ring `all`.
        file: Name of a CSV or YAML file beside the stage's, with a device and its ring a row; none by default.
        registry: `iot`, or `sagemaker`: the things are devices of a SageMaker device fleet as well, which AWS retired
            in 2024.
        nucleus: `any`: nucleus lite may run on a device, so its limits hold (18 components, recipes of 8 kB); or
            `classic`: on none, and nothing is offered to it.
    """

    devices: tuple[ThingName, ...] = ()
    file: FileName | None = None
    registry: Literal["iot", "sagemaker"] = "iot"
    nucleus: Literal["any", "classic"] = "any"
    _listed: tuple[Device, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _names_for_sagemaker(self) -> "Fleet":
        if wrong := self._not_for_sagemaker(self.devices):
            raise ValueError(wrong)
        return self

    def _not_for_sagemaker(self, names: Iterable[str]) -> str:
        """What is wrong with names if they are to be SageMaker's, too."""
        wrong = [name for name in names if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)]
        if self.registry == "iot" or not wrong:
            return ""
        return (
            "devices must have names of 1 to 63 letters, digits and inner dashes with registry sagemaker: "
            f"{', '.join(wrong[:5])}"
        )

    @property
    def roster(self) -> tuple[Device, ...]:
        """All devices, those of the file included, sorted by name."""
        return tuple(sorted({*map(Device, self.devices), *self._listed}))

    def ring_of(self, name: str) -> str:
        """The ring of a device; `all` for one that is not listed."""
        return next((device.ring for device in self.roster if device.name == name), _LAST)

    def read_file(self, folder: Path) -> None:
        """Read the file, once, when the stage is loaded.

        Raises:
            RosterError: It cannot be used.
        """
        if self.file is None:
            return
        self._listed = read_roster(folder / self.file)
        if twice := sorted({device.name for device in self._listed} & set(self.devices)):
            raise RosterError([f"{self.file}: device must be listed once, also in fleet.devices: {', '.join(twice)}"])
        if wrong := self._not_for_sagemaker(device.name for device in self._listed):
            raise RosterError([f"{self.file}: {wrong}"])


class Growth(Section):
    """A rollout that starts slowly and gets faster while it succeeds.

    Attributes:
        devices_per_minute: Devices notified a minute at first.
        factor: By which that grows, 1.1 to 5.
        after_devices: It grows each time so many devices more have succeeded.
    """

    devices_per_minute: int = Field(ge=1, le=1000)
    factor: float = Field(default=2, ge=1.1, le=5)
    after_devices: int = Field(default=10, ge=1, le=1_000_000)


class Rollout(Section):
    """How fast a deployment reaches a ring, and what becomes of a device or a rollout that fails.

    Attributes:
        devices_per_minute: Upper bound of devices notified a minute.
        growth: How the rate grows up to that bound; it is constant by default.
        timeout_minutes: After so long a device that is still busy counts as failed.
        abort_percentage: Failed devices, in per cent, that cancel the rollout.
        abort_after: Devices that must have finished before that share counts.
        on_failure: What a failed classic device does: `rollback` to what it ran, or `keep` the new state, as lite does.
        notify: Whether the classic nucleus asks a component before it is updated; lite asks nobody.
        notify_timeout_s: How long a component may put off its own update, s.
    """

    devices_per_minute: int = Field(default=50, ge=1, le=1000)
    growth: Growth | None = None
    timeout_minutes: int = Field(default=60, ge=1, le=10080)
    abort_percentage: float = Field(default=10, gt=0, le=100)
    abort_after: int = Field(default=10, ge=1, le=1_000_000)
    on_failure: Literal["rollback", "keep"] = "rollback"
    notify: bool = True
    notify_timeout_s: int = Field(default=60, ge=1, le=86400)

    @model_validator(mode="after")
    def _grows_up_to_the_bound(self) -> "Rollout":
        if self.growth and self.growth.devices_per_minute > self.devices_per_minute:
            raise ValueError(
                f"growth.devices_per_minute must be at most devices_per_minute {self.devices_per_minute}, up to which "
                f"the rate grows, got {self.growth.devices_per_minute}"
            )
        return self


class Health(Section):
    """What a deploy waits for; without it `cdk deploy` ends before the first device has heard of the deployment.

    Attributes:
        rings: The rings whose devices must be healthy before the next ring's turn and before the deploy ends; empty to
            wait for none. A ring without a core device is passed at once.
        timeout_minutes: After so long a ring that is not healthy fails the deploy.
        healthy_percentage: Share of a ring's core devices, in per cent, that is enough.
        away_minutes: A device that has not taken a deployment up so long after it was offered is away: it is not waited
            for, and gets the deployment when it comes back. 0, the default: every device is waited for.
        present_percentage: Share of a ring's core devices, in per cent, that must not be away.
    """

    rings: tuple[Ring, ...] = RINGS
    timeout_minutes: int = Field(default=20, ge=1, le=LONGEST_WAIT_MIN)
    healthy_percentage: int = Field(default=100, ge=1, le=100)
    away_minutes: int = Field(default=0, ge=0, lt=LONGEST_WAIT_MIN)
    present_percentage: int = Field(default=50, ge=1, le=100)

    @model_validator(mode="after")
    def _away_before_the_end(self) -> "Health":
        if self.away_minutes >= self.timeout_minutes:
            raise ValueError(
                f"away_minutes must be below timeout_minutes {self.timeout_minutes}, at which the deploy fails, "
                f"got {self.away_minutes}"
            )
        return self


class Promotion(Section):
    """What a new version of a model must show beside the one in use, before its ring takes it; see docs/promotion.md.

    Attributes:
        rings: Rings in which a new version is a candidate first; empty, the default, to take every version at once.
            They must be among `health.rings`: the deploy waits for the decision as for health.
        agreement: Share of inputs that it must answer as the current one does, 0 to 1; 0: not looked at.
        accuracy: Share of inputs of which requests say the label, that it must get right, 0 to 1; 0: not looked at.
        zone: A candidate so far below agreement or accuracy is accepted with a probability of at most `beta`.
        latency_ratio: The median of its time over the current one's must be at most this; 0: not looked at.
        memory_mb: It may take so much; one that takes more is not run. 0: not looked at.
        inputs: After so many compared inputs of the ring it is decided at the latest.
        minutes: After so long it is decided at the latest; what is not accepted by then is refused.
        alpha: Probability, at most, of refusing a candidate that reaches everything.
        beta: Probability, at most, of accepting one that misses something by the zone or more.
    """

    rings: tuple[Ring, ...] = ()
    agreement: float = Field(default=0.95, ge=0, lt=1)
    accuracy: float = Field(default=0, ge=0, lt=1)
    zone: float = Field(default=0.05, ge=1e-3, lt=1)
    latency_ratio: float = Field(default=1.5, ge=0, le=16)
    memory_mb: int = Field(default=0, ge=0, le=1 << 20)
    inputs: int = Field(default=1000, ge=1, le=1_000_000)
    minutes: int = Field(default=30, ge=1, le=49)
    alpha: float = Field(default=0.05, ge=1e-6, le=0.5)
    beta: float = Field(default=0.05, ge=1e-6, le=0.5)

    @model_validator(mode="after")
    def _something_is_looked_at(self) -> "Promotion":
        if self.rings and not (self.agreement or self.accuracy or self.latency_ratio or self.memory_mb):
            raise ValueError("agreement, accuracy, latency_ratio or memory_mb must be above 0, got 0 for all of them")
        for name in ("agreement", "accuracy"):
            if 0 < getattr(self, name) <= self.zone:
                raise ValueError(f"zone must be below {name}, got {self.zone:g} and {getattr(self, name):g}")
        return self
