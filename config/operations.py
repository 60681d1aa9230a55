"""What a stage's file may say of its operation: how changes take to it, who watches and is told, what is stored."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator, model_validator

from config.section import Section


class Announced(Section):
    """What `make plan` may find without failing: the reviewers of this file have agreed to it.

    Attributes:
        removals: Components that devices uninstall, targets that lose their deployment, and stacks that are no longer
            the stage's and stay behind, by name.
        replacements: Resources that are deleted or made anew, as the plan names them: `Stack/LogicalId`.
        leaving: Devices that the registry takes away, by thing name.
        moving: Devices that change their ring, by thing name.

    A `*` in a name stands for any characters.
    """

    removals: tuple[str, ...] = ()
    replacements: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()

    @staticmethod
    def has(name: str, announced: Iterable[str]) -> bool:
        """Whether a name is among the announced ones."""
        return any(fnmatchcase(name, each) for each in announced)


class Pipeline(Section):
    """A CodePipeline in the stage's account that checks and deploys the stage; leave the table out for none.

    Attributes:
        connection_arn: A connection to the Git host, made in the console and confirmed there by a person.
        repository: `owner/name` at the Git host.
        branch: What is deployed when it changes.
        approval: Whether a person must agree between the checks and the deploy.
    """

    connection_arn: Annotated[
        str,
        StringConstraints(
            pattern=r"^arn:aws[a-z-]*:(codeconnections|codestar-connections):[a-z0-9-]+:\d{12}:connection/[a-f0-9-]{36}$"
        ),
    ]
    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)+$", max_length=256)]
    branch: Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", max_length=255)] = "main"
    approval: bool = True


class Bootstrap(Section):
    """How `cdk bootstrap` prepared the account; the qualifier is CDK's own setting (cdk.json).

    Attributes:
        customer_key: Whether with `--bootstrap-customer-key`: then its assets need that key to be read.
    """

    customer_key: bool = False


#: The interval at which a device's inference component tells that it is alive, s: its own default.
HEARTBEAT_S = 60

Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s.]+$", max_length=254)]


class Thresholds(Section):
    """Where a model's alarms go off.

    Attributes:
        error_rate: Share of answers that are errors, 0 to 1.
        latency_p95_ms: 95th percentile of the time from taking a request to having its prediction, ms.
        drift: Population stability index of the inputs, against the model's own samples, above which they have
            drifted: 0.1 is a slight change, 0.25 a large one; 0 for no such alarm.
        minimum_confidence: Of a model without a reference: average probability of the best label below which the
            inputs have drifted, 0 to 1; 0 for no such alarm.
    """

    error_rate: float = Field(default=0.05, ge=0, lt=1)
    latency_p95_ms: float = Field(default=500, gt=0)
    drift: float = Field(default=0.25, ge=0)
    minimum_confidence: float = Field(default=0.5, ge=0, le=1)


class ModelThresholds(Section):
    """A model's own thresholds; those left out are the stage's.

    Attributes:
        error_rate: As in `thresholds`.
        latency_p95_ms: As in `thresholds`.
        drift: As in `thresholds`.
        minimum_confidence: As in `thresholds`.
    """

    error_rate: float | None = Field(default=None, ge=0, lt=1)
    latency_p95_ms: float | None = Field(default=None, gt=0)
    drift: float | None = Field(default=None, ge=0)
    minimum_confidence: float | None = Field(default=None, ge=0, le=1)


class Observability(Section):
    """How a stage's fleet is watched.

    Attributes:
        emails: Who is told when an alarm goes off or a deployment fails; each must confirm once.
        store_results: Whether every result becomes an object below `results/` of the artifact bucket.
        device_metrics: Whether every device has a metric of its own: a line on the dashboard, and a price a device.
        period_s: What an alarm looks at, s: a multiple of 60.
        periods: So many of those in a row must be bad for an error rate, a latency or a confidence alarm.
        expected_devices: How many devices send heartbeats; by default those that the stage registers.
        silent_devices: So many silent devices are an alarm.
        thresholds: For every model.
        models: A model's folder to its own thresholds.
    """

    emails: tuple[Email, ...] = ()
    store_results: bool = True
    device_metrics: bool = True
    period_s: int = Field(default=300, ge=2 * HEARTBEAT_S, le=86400)
    periods: int = Field(default=3, ge=1, le=100)
    expected_devices: int | None = Field(default=None, ge=1, le=1_000_000)
    silent_devices: int = Field(default=1, ge=1, le=1_000_000)
    thresholds: Thresholds = Thresholds()
    models: dict[str, ModelThresholds] = Field(default_factory=dict)

    @field_validator("period_s")
    @classmethod
    def _whole_minutes(cls, value: int) -> int:
        if value % 60:
            raise ValueError("must be a multiple of 60: the rules engine puts metrics of one minute's resolution")
        return value

    @model_validator(mode="after")
    def _within_a_day(self) -> "Observability":
        if self.period_s * self.periods > 86400:
            raise ValueError(f"period_s * periods must be at most 86400 s, got {self.period_s} * {self.periods}")
        return self

    def of_model(self, folder: str) -> Thresholds:
        """The thresholds of a model, its own before the stage's.

        Args:
            folder: Of the model.
        """
        own = self.models.get(folder, ModelThresholds()).model_dump(exclude_none=True)
        return self.thresholds.model_copy(update=own)

    def least_heartbeats(self, registered: int) -> float:
        """How few heartbeats in a period mean that too many devices are silent.

        Args:
            registered: Devices that the stage registers.

        Returns:
            Half a device's heartbeats above what is left when `silent_devices` send none, at least one heartbeat.
        """
        speaking = (self.expected_devices or registered) - self.silent_devices + 0.5
        return max(1.0, speaking * self.period_s / HEARTBEAT_S)
