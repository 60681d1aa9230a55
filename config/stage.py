"""What a stage's file may say: types, defaults and rules."""

import platform
import re
import sys
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from config import regions
from config.delivery import Announced, Pipeline
from config.fleet import Fleet, Health, Rollout
from config.nucleus import LITE_PYTHON, Download, nucleus_download
from config.observability import Observability
from config.roster import Ring
from config.section import Section

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=30)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

HOST = "host"
MACHINES = ("x86_64", "aarch64")


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
    serving: dict[str, str | int | float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _neo_alone_has_settings(self) -> "Model":
        if self.compiler != "neo" and self.neo != Neo():
            raise ValueError(f"neo must be left out with compiler {self.compiler}")
        if self.compiler != "neo" and self.packager == "edge-manager":
            raise ValueError(f"packager edge-manager packs what neo compiled: set compiler to neo, got {self.compiler}")
        return self


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


class Stage(Section):
    """One deployment of the whole product.

    Attributes:
        name: The stage's name, part of every physical name; the file's name without `.toml`.
        region: AWS region; the account is the one of the credentials that deploy.
        retain: Whether a destroy keeps the key, the buckets and what they hold.
        revision: Part of every component's version: raised by whoever finds a version taken by another recipe.
        models: The models, at least one.
        configuration: Ring to component to what is merged into the component's configuration on its devices; the
            component is `inference`.
        announced: Removals and replacements that a plan expects.
        pipeline: A pipeline inside AWS; none by default.
        bootstrap: How the account was prepared.
        handlers: Functions of Greengrass V1; none by default.
        observability: Rules, alarms and who is told.
    """

    name: Annotated[Slug, Field(max_length=12)]
    region: Region
    retain: bool = False
    revision: int = Field(default=0, ge=0, le=1_000_000)
    models: tuple[Model, ...]
    configuration: dict[Ring, dict[Literal["inference"], dict[str, Any]]] = Field(default_factory=dict)
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
    observability: Observability = Observability()

    @property
    def version_parts(self) -> tuple[str, ...]:
        """What the stage itself adds to the content that components' versions follow from; nothing by default."""
        return (f"revision {self.revision}",) if self.revision else ()

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

    @field_validator("configuration")
    @classmethod
    def _key_is_the_stacks(cls, value: dict[Ring, dict[str, dict[str, Any]]]) -> dict[Ring, dict[str, dict[str, Any]]]:
        if rings := [ring for ring, components in value.items() if "signingKey" in components.get("inference", {})]:
            raise ValueError(f"signingKey must be left to the stack, which knows the key: remove it of {rings[0]}")
        return value

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
    def _thresholds_of_listed_models(self) -> "Stage":
        listed = [model.folder for model in self.models]
        if unknown := sorted(set(self.observability.models) - set(listed)):
            raise ValueError(f"observability.models may name {', '.join(listed)} only, got {', '.join(unknown)}")
        return self

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
