"""What a stage's file may say: types, defaults and rules."""

import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, field_validator, model_validator

from config import regions
from config.nucleus import LITE_PYTHON, Download, nucleus_download
from config.roster import RINGS, Device, Ring, RosterError, read_roster

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=30)]
ThingName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9:_-]+$", max_length=124)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

HOST = "host"
MACHINES = ("x86_64", "aarch64")


class Section(BaseModel):
    """A table of the file: unknown fields are mistakes, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Neo(Section):
    """A SageMaker compilation job; its rules are the API's, checked when the stack is defined.

    Attributes:
        device: One of SageMaker's devices, such as `jetson_xavier`; by default Linux on the runtime's architecture.
        accelerator: `INTEL_GRAPHICS`, `MALI`, `NVIDIA` or `NNA`; the processor by default.
        compiler_options: The compiler's own.
        max_runtime_minutes: After so long the job is stopped.
        subnets: Of the VPC that the job runs in; none by default.
        security_groups: Of that VPC.
    """

    device: str = ""
    accelerator: str = ""
    compiler_options: dict[str, Any] = Field(default_factory=dict)
    max_runtime_minutes: int = 30
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


class Verification(Section):
    """The endpoint that a model is verified on.

    Attributes:
        image: URI of a Triton image; by default the newest of the SageMaker SDK's table for the region.
        instance_type: Of the endpoint, which lives for one request.
        tolerance: Largest difference of an output value that is still right.
    """

    image: Annotated[str, StringConstraints(pattern=r"^\S{1,255}$")] | None = None
    instance_type: Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = "ml.c5.large"
    tolerance: float = Field(default=1e-3, ge=0)


class Model(Section):
    """One model that the stage compiles, packages and deploys.

    Attributes:
        folder: Folder below `edge_assets/models`; also the model's name in topics and jobs.
        compiler: What makes the device's artifact: `neo` a SageMaker compilation job, `onnxruntime` the devices' own
            ONNX Runtime, `none` the source as it is.
        neo: The compilation job, with `neo` only.
        packager: `own`, or `edge-manager`: a SageMaker edge packaging job first, which AWS retired in 2024.
        verify: Whether a deploy asks the model its sample (`verification.json` in its folder) on an `endpoint`.
        verification: That endpoint.
        serving: Keys of the model's configuration on the device that differ from those of its folder.
    """

    folder: Slug
    compiler: Literal["neo", "onnxruntime", "none"] = "neo"
    neo: Neo = Neo()
    packager: Literal["own", "edge-manager"] = "own"
    verify: Literal["none", "endpoint"] = "none"
    verification: Verification = Verification()
    serving: dict[str, str | int | float] = {}

    @model_validator(mode="after")
    def _neo_alone_has_settings(self) -> "Model":
        if self.compiler != "neo" and self.neo != Neo():
            raise ValueError(f"neo must be left out with compiler {self.compiler}")
        if self.compiler != "neo" and self.packager == "edge-manager":
            raise ValueError(f"packager edge-manager packs what neo compiled: set compiler to neo, got {self.compiler}")
        return self


class Fleet(Section):
    """The devices that the stage registers, besides its edge server.

    Attributes:
        devices: Thing names; empty by default. They are in the ring `all`.
        file: Name of a CSV or YAML file beside the stage's, with a device and its ring a row; none by default.
        registry: `iot`, or `sagemaker`: the things are devices of a SageMaker device fleet as well, which AWS retired
            in 2024.
    """

    devices: tuple[ThingName, ...] = ()
    file: Annotated[str, StringConstraints(pattern=r"^[\w./-]+\.(csv|ya?ml)$")] | None = None
    registry: Literal["iot", "sagemaker"] = "iot"
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


class Runtime(Section):
    """The devices' interpreter and machine, for which wheels are packed and models compiled.

    Attributes:
        python: Version as `3.11`, or `host`: the interpreter that runs the synth.
        architecture: As `uname -m` prints it, or `host`: the machine that runs the synth.
    """

    python: Annotated[str, StringConstraints(pattern=r"^(3\.\d{1,2}|host)$")] = "3.11"
    architecture: Literal["x86_64", "aarch64", "host"] = "x86_64"

    @field_validator("python")
    @classmethod
    def _resolve_python(cls, value: str) -> str:
        return f"{sys.version_info.major}.{sys.version_info.minor}" if value == HOST else value

    @field_validator("architecture")
    @classmethod
    def _resolve_architecture(cls, value: str) -> str:
        machine = platform.machine() if value == HOST else value
        if machine not in MACHINES:
            raise ValueError(f"host must be one of {', '.join(MACHINES)}, this machine is {machine}")
        return machine


class Agent(Section):
    """The Edge Manager agent's gRPC service on the devices, for client programs written for that agent.

    Attributes:
        enabled: Whether devices get its code and its wheels (about 7 MB) and serve it; off by default.
        socket: The Unix socket's path, at most 107 bytes; a relative one lies in the inference component's work folder.
    """

    enabled: bool = False
    socket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9/._-]+$", max_length=107)] = "agent.sock"


#: As AWS IoT takes it; exact, because access control names it.
Topic = Annotated[str, StringConstraints(pattern=r"^[^+#\s$][^+#\s]*$", max_length=256)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Handler(Section):
    """A Python function written for Greengrass V1, run unmodified as a component.

    Attributes:
        name: The function's name, part of its component's.
        folder: Folder below `edge_assets/handlers/functions`.
        handler: `module.function` in it.
        pinned: Whether it is long-lived; else it starts with an event and ends when idle.
        encoding: `json`: an event is the parsed message; `binary`: its bytes.
        subscribe: Exact topics in the cloud whose messages are its events.
        publish: Exact topics in the cloud that it may publish on.
        environment: Its environment variables.
        timeout_s: After so long an event's process is killed, s.
        idle_s: Without an event for so long a function that is not pinned ends, s.
        queue_size: Events that wait at most.
        memory_mb: What its context says, MB; not enforced.
    """

    name: Slug
    folder: Slug
    handler: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    pinned: bool = False
    encoding: Literal["json", "binary"] = "json"
    subscribe: tuple[Topic, ...] = ()
    publish: tuple[Topic, ...] = ()
    environment: dict[VariableName, str] = Field(default_factory=dict)
    timeout_s: int = Field(default=3, ge=1, le=3600)
    idle_s: int = Field(default=60, ge=1, le=86400)
    queue_size: int = Field(default=64, ge=1, le=10_000)
    memory_mb: int = Field(default=128, ge=1, le=65_536)


class Nucleus(Section):
    """The Greengrass release that the edge server installs.

    Attributes:
        kind: `classic` runs on Java, `lite` needs 15 MB of memory, `docker` is the classic one in a container.
        version: The release; one with a known digest unless given.
        sha256: Digest of its zip, required for a release whose digest is not known; a download that differs is refused.
    """

    kind: Literal["classic", "lite", "docker"] = "classic"
    version: Annotated[str, StringConstraints(pattern=r"^2\.\d+\.\d+$")] | None = None
    sha256: Sha256 | None = None


class Bootstrap(Section):
    """How `cdk bootstrap` prepared the account; the qualifier is CDK's own setting (cdk.json).

    Attributes:
        customer_key: Whether with `--bootstrap-customer-key`: then its assets need that key to be read.
    """

    customer_key: bool = False


class EdgeServer(Section):
    """The core device on EC2.

    Attributes:
        instance_type: EC2 type of the runtime's architecture; by default the cheapest that holds a nucleus and a model.
        volume_gib: Size of the encrypted gp3 root volume, GiB.
        nucleus: The Greengrass release on it.
        provisioning_minutes: After so long without a word from the instance the deploy fails.
    """

    instance_type: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*\.[a-z0-9-]+$")] | None = None
    volume_gib: int = Field(default=20, ge=8, le=16384)
    nucleus: Nucleus = Nucleus()
    provisioning_minutes: int = Field(default=15, ge=1, le=720)


class Network(Section):
    """The edge server's network.

    Attributes:
        flow_logs: Whether the VPC's traffic is logged.
        cidr: IPv4 range of the VPC; its only subnet takes all of it.
    """

    flow_logs: bool = True
    cidr: Annotated[str, StringConstraints(pattern=r"^(\d{1,3}\.){3}\d{1,3}/(1[6-9]|2[0-8])$")] = "10.42.0.0/24"


class Growth(Section):
    """A rollout that starts slowly and gets faster while it succeeds.

    Attributes:
        devices_per_minute: Devices notified a minute at first.
        factor: By which that grows, 1.1 to 5.
        after_devices: It grows each time so many devices more have succeeded.
    """

    devices_per_minute: int = Field(ge=1, le=1000)
    factor: float = Field(default=2, ge=1.1, le=5)
    after_devices: int = Field(default=10, ge=1)


class Rollout(Section):
    """How fast a deployment reaches a ring, and what becomes of a device or a rollout that fails.

    Attributes:
        devices_per_minute: Upper bound of devices notified a minute.
        growth: How the rate grows up to that bound; it is constant by default.
        timeout_minutes: After so long a device that is still busy counts as failed.
        abort_percentage: Failed devices, in per cent, that cancel the rollout.
        abort_after: Devices that must have finished before that share counts.
        on_failure: What a failed device does: `rollback` to what it ran before, or `keep`s the new state.
        notify: Whether a component is asked before it is updated; else it is updated at once.
        notify_timeout_s: How long a component may put off its own update, s.
    """

    devices_per_minute: int = Field(default=50, ge=1, le=1000)
    growth: Growth | None = None
    timeout_minutes: int = Field(default=60, ge=1, le=10080)
    abort_percentage: float = Field(default=10, gt=0, le=100)
    abort_after: int = Field(default=10, ge=1)
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


class Announced(Section):
    """What `make plan` may find without failing: the reviewers of this file have agreed to it.

    Attributes:
        removals: Components that devices uninstall, and targets that lose their deployment, by name.
        replacements: Resources that are deleted or made anew, as the plan names them: `Stack/LogicalId`.
    """

    removals: tuple[str, ...] = ()
    replacements: tuple[str, ...] = ()


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


class Health(Section):
    """What a deploy waits for; without it `cdk deploy` ends before the first device has heard of the deployment.

    Attributes:
        rings: The rings whose devices must be healthy before the next ring's turn and before the deploy ends; empty to
            wait for none. A ring without a core device is passed at once.
        timeout_minutes: After so long a ring that is not healthy fails the deploy.
        healthy_percentage: Share of a ring's core devices, in per cent, that is enough.
    """

    rings: tuple[Ring, ...] = RINGS
    timeout_minutes: int = Field(default=20, ge=1, le=50)
    healthy_percentage: int = Field(default=100, ge=1, le=100)


class Stage(Section):
    """One deployment of the whole product.

    Attributes:
        name: The stage's name, part of every physical name; the file's name without `.toml`.
        region: AWS region; the account is the one of the credentials that deploy.
        retain: Whether a destroy keeps the key, the buckets and what they hold.
        models: The models, at least one.
        configuration: Ring to component to what is merged into the component's configuration on its devices; the
            component is `inference`.
        announced: Removals and replacements that a plan expects.
        pipeline: A pipeline inside AWS; none by default.
        bootstrap: How the account was prepared.
        handlers: Functions of Greengrass V1; none by default.
    """

    name: Annotated[Slug, Field(max_length=12)]
    region: Region
    retain: bool = False
    models: tuple[Model, ...]
    configuration: dict[Ring, dict[Literal["inference"], dict[str, Any]]] = {}
    fleet: Fleet = Fleet()
    runtime: Runtime = Runtime()
    agent: Agent = Agent()
    handlers: tuple[Handler, ...] = ()
    edge_server: EdgeServer = EdgeServer()
    network: Network = Network()
    rollout: Rollout = Rollout()
    announced: Announced = Announced()
    pipeline: Pipeline | None = None
    health: Health = Health()
    bootstrap: Bootstrap = Bootstrap()

    @property
    def instance_type(self) -> str:
        """EC2 type of the edge server: the file's, else a cheap one of the runtime's architecture."""
        cheapest = "t4g.small" if self.runtime.architecture == "aarch64" else "t3.small"
        return self.edge_server.instance_type or cheapest

    @property
    def nucleus_download(self) -> Download:
        """What the edge server fetches."""
        nucleus = self.edge_server.nucleus
        return nucleus_download(nucleus.kind, nucleus.version, nucleus.sha256, self.runtime.architecture)

    @field_validator("models")
    @classmethod
    def _one_entry_a_model(cls, models: tuple[Model, ...]) -> tuple[Model, ...]:
        if not models:
            raise ValueError("at least one model must be listed")
        folders = [model.folder for model in models]
        if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise ValueError(f"each model may be listed once, twice there: {', '.join(twice)}")
        return models

    @field_validator("handlers")
    @classmethod
    def _one_entry_a_handler(cls, handlers: tuple[Handler, ...]) -> tuple[Handler, ...]:
        names = [handler.name for handler in handlers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each handler may be listed once, twice there: {', '.join(twice)}")
        return handlers

    @model_validator(mode="after")
    def _edge_manager_in_its_regions(self) -> "Stage":
        wanted = [f"packager edge-manager of {each.folder}" for each in self.models if each.packager == "edge-manager"]
        wanted += ["fleet.registry sagemaker"] if self.fleet.registry == "sagemaker" else []
        if wanted and self.region not in regions.EDGE_MANAGER:
            raise ValueError(
                f"{' and '.join(wanted)} needs a region with SageMaker Edge Manager, one of "
                f"{', '.join(regions.EDGE_MANAGER)}, got {self.region}"
            )
        return self

    @model_validator(mode="after")
    def _one_architecture(self) -> "Stage":
        # AWS names its own Arm families by a g after the generation: t4g, m7gd.
        machine = "aarch64" if re.match(r"[a-z]+\d+g", self.instance_type) else "x86_64"
        if machine != self.runtime.architecture:
            raise ValueError(
                f"edge_server.instance_type {self.instance_type} is {machine}, "
                f"runtime.architecture is {self.runtime.architecture}: make them agree"
            )
        return self

    @model_validator(mode="after")
    def _known_download(self) -> "Stage":
        _ = self.nucleus_download
        if self.edge_server.nucleus.kind == "lite" and self.runtime.python != LITE_PYTHON:
            raise ValueError(
                f"runtime.python must be {LITE_PYTHON} with edge_server.nucleus.kind lite, which runs on Ubuntu 24.04, "
                f"got {self.runtime.python}"
            )
        return self

    @model_validator(mode="after")
    def _region_has_what_is_switched_on(self) -> "Stage":
        if self.region not in regions.GREENGRASS:
            raise ValueError(f"region must have AWS IoT Greengrass V2, one of {', '.join(regions.GREENGRASS)}")
        return self
