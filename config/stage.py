"""What a stage's file may say: its tables, and the rules between them."""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from config.client_devices import ClientDevices
from config.edge_server import (
    CPU,
    DEFAULT_VERSIONS,
    SERVER_PYTHONS,
    WHEELS,
    Agent,
    Download,
    EdgeServer,
    Network,
    Runtime,
    nucleus_download,
)
from config.fleet import LONGEST_WAIT_MIN, Fleet, Health, Promotion, Ring, Rollout, RosterError
from config.model import Model, camera_host, camera_ways, device_mistakes, serving
from config.names import Names
from config.operations import Announced, Bootstrap, Observability, Pipeline
from config.routes import CLOUD, DEVICES, THING, Handler, Route, Wiring, wire
from config.section import Section, Slug

#: Where AWS has what not every region has, as CloudFormation's own resource schemas say (cfn-lint 1.58):
#: AWS::GreengrassV2::ComponentVersion and ::Deployment.
GREENGRASS_REGIONS = (
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "cn-north-1",
    "eu-central-1",
    "eu-west-1",
    "eu-west-2",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-2",
)

#: Regions with SageMaker Edge Manager's resource types (CloudFormation's registry, November 2026).
EDGE_MANAGER_REGIONS = ("ap-northeast-1", "eu-central-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2")

#: Characters that a job's or an endpoint's name may start with: of SageMaker's 63, content and attempt take the rest.
JOB_PREFIX = {"own": 50, "edge-manager": 48}

Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]


def _plain(value: Any, where: str) -> None:
    """Refuse what JSON has no form for."""
    if isinstance(value, dict):
        for key, each in value.items():
            _plain(each, f"{where}.{key}")
    elif isinstance(value, list):
        for place, each in enumerate(value):
            _plain(each, f"{where}.{place}")
    elif not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where} must be a text, a number that is finite, true or false, got {value!r}")


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
        promotion: Rings in which a new version of a model must show what it can; none by default.
        bootstrap: How the account was prepared.
        handlers: Functions of Greengrass V1; none by default.
        routes: Which message goes from whom to whom; by default what handlers list, and models with the cloud.
        client_devices: Devices around the cores; none by default.
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
    routes: tuple[Route, ...] = ()
    client_devices: ClientDevices | None = None
    edge_server: EdgeServer = EdgeServer()
    network: Network = Network()
    rollout: Rollout = Rollout()
    announced: Announced = Announced()
    pipeline: Pipeline | None = None
    health: Health = Health()
    promotion: Promotion = Promotion()
    bootstrap: Bootstrap = Bootstrap()
    observability: Observability = Observability()

    @property
    def version_parts(self) -> tuple[str, ...]:
        """What the stage itself adds to the content that components' versions follow from; nothing by default."""
        return (f"revision {self.revision}",) if self.revision else ()

    @property
    def recipe_runtime(self) -> str:
        """Which nucleus a component is offered to, as its manifest says it."""
        return "aws_nucleus_classic" if self.fleet.nucleus == "classic" else "*"

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

    @property
    def wiring(self) -> Wiring:
        """What each handler hears and says, by the routes and by what it lists itself."""
        lite = self.edge_server.nucleus.kind == "lite"
        asking = self.client_devices.models if self.client_devices else ()
        return wire(Names(self.name), self.models, self.handlers, self.routes, lite=lite, asking=asking)

    @property
    def cores(self) -> dict[str, str]:
        """Every core device that the stage registers, the edge server included, with its ring."""
        server = Names(self.name).edge_server
        return {server: self.fleet.ring_of(server), **{device.name: device.ring for device in self.fleet.roster}}

    def read_lists(self, folder: Path) -> None:
        """Read the files with devices, once, when the stage is loaded.

        Raises:
            RosterError: One cannot be used; the text begins with the table.
        """
        # Client devices must be other things than cores: those of the first list must be known and right.
        for table, read in (("fleet.file", self.fleet.read_file), ("client_devices", self._read_client_devices)):
            try:
                read(folder)
            except RosterError as exc:
                raise RosterError(f"{table}: {mistake}" for mistake in exc.mistakes) from exc

    def _read_client_devices(self, folder: Path) -> None:
        if self.client_devices:
            self.client_devices.read(folder, self.cores)

    @property
    def camera_ways(self) -> list[tuple[str, int]]:
        """IPv4 ranges and ports that the edge server's network must let out for the cameras of its models."""
        ring = self.fleet.ring_of(Names(self.name).edge_server)
        return list(camera_ways([host for of_ring, host in self._cameras() if of_ring in ("", ring)]))

    def _cameras(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """The ring, empty for every one, and the camera, by host and port."""
        names = Names(self.name)
        places: list[tuple[str, str, Any]] = [
            ("", f"models.{each.folder}.serving", serving(each, names)) for each in self.models
        ]
        for ring, components in self.configuration.items():
            models = components.get("inference", {}).get("models", {})
            for name, keys in models.items() if isinstance(models, dict) else ():
                places.append((ring, f"configuration.{ring}.inference.models.{name}", keys))
        for of_ring, where, keys in places:
            if isinstance(keys, dict) and (found := camera_host(keys, where)):
                yield of_ring, found

    @model_validator(mode="after")
    def _rules_between_tables(self) -> "Stage":
        if mistakes := self.mistakes_between_tables():
            raise ValueError("\n".join(mistakes))
        return self

    @classmethod
    def of_right_tables(cls, right: Mapping[str, Any], wrong: Collection[str]) -> "Stage":
        """A stage out of what is right in a file with mistakes; only for finding more of them.

        Args:
            right: Values that are checked, by field; a field that is in neither has its default.
            wrong: Fields that it does without: whoever reads one gets an `AttributeError`.
        """
        stage = cls.model_construct(**{field: value for field, value in right.items() if field not in wrong})
        for field in wrong:
            stage.__dict__.pop(field, None)
        return stage

    def mistakes_between_tables(self) -> list[str]:
        """Every rule is asked, so that all mistakes are told at once; those that look at the same find the same.

        A rule that looks at a table with mistakes of its own, which `of_right_tables` leaves out, is not asked.
        """
        mistakes: dict[str, None] = {}
        for rule in (
            self._cameras_are_reachable,
            self._health_waits_for_promotion,
            self._names_of_jobs_fit,
            self._accelerators_get_the_model_itself,
            self._accelerators_have_their_build,
            self._thresholds_of_listed_models,
            self._routes_lead_somewhere,
            self._names_of_things_where_the_nucleus_fills_them,
            self._client_devices_on_the_classic_nucleus,
            self._lite_where_it_is_offered,
            self._edge_manager_in_its_regions,
            self._one_architecture,
            self._known_download,
            self._region_has_what_is_switched_on,
            self._each_has_a_component,
            self._devices_take_their_keys,
        ):
            try:
                rule()
            except ValueError as exc:
                mistakes |= dict.fromkeys(str(exc).splitlines())
            except AttributeError:
                if type(self).model_fields.keys() <= self.__dict__.keys():
                    raise
        return list(mistakes)

    def _cameras_are_reachable(self) -> None:
        for _, (host, _) in self._cameras():
            if ":" in host:
                raise ValueError(
                    f"cameraUrl must name an IPv4 address or a name: the edge server's VPC has no IPv6, got {host}"
                )

    @field_validator("configuration")
    @classmethod
    def _key_is_the_stacks(cls, value: dict[Ring, dict[str, dict[str, Any]]]) -> dict[Ring, dict[str, dict[str, Any]]]:
        _plain(value, "configuration")
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

    # The last of the fields' validators, so that it is around the others.
    @field_validator("*", mode="wrap")
    @classmethod
    def _note_what_is_right(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Keep each field that is right in the context, where the loader has given one: errors do not have them."""
        right = check(value)
        if isinstance(info.context, dict) and info.field_name:
            info.context[info.field_name] = right
        return right

    def _health_waits_for_promotion(self) -> None:
        if unheard := sorted(set(self.promotion.rings) - set(self.health.rings)):
            raise ValueError(
                f"promotion.rings must be among health.rings, since the deploy waits for both, got {unheard[0]}"
            )
        if self.promotion.rings and (both := self.health.timeout_minutes + self.promotion.minutes) > LONGEST_WAIT_MIN:
            raise ValueError(
                f"health.timeout_minutes and promotion.minutes must be at most {LONGEST_WAIT_MIN} together, got {both}"
            )

    def _names_of_jobs_fit(self) -> None:
        for model in self.models:
            longest = JOB_PREFIX[model.packager] if model.compiler == "neo" or model.verify == "endpoint" else 255
            job = Names(self.name).compilation_job(model.folder)
            if (over := len(job) - longest) > 0:
                most = len(self.name) + len(model.folder) - over
                raise ValueError(
                    f"models.folder and the stage's name may have {most} characters together, because SageMaker's jobs "
                    f"are named after both, got {model.folder!r} and {self.name!r}: shorten one by {over}"
                )

    def _accelerators_get_the_model_itself(self) -> None:
        compiled = [model.folder for model in self.models if model.compiler == "onnxruntime"]
        if compiled and self.runtime.accelerator != CPU:
            raise ValueError(
                f"models.compiler onnxruntime optimises for processors by another release than runtime.accelerator "
                f"{self.runtime.accelerator} has: set it to none for {', '.join(compiled)}"
            )

    def _accelerators_have_their_build(self) -> None:
        there = self.runtime.accelerator
        builds = [name for name in WHEELS if there != CPU and WHEELS[name].lock == WHEELS[there].lock]
        for model in self.models:
            wanted = model.serving.get("accelerator", CPU)
            if wanted not in (CPU, *builds):
                listed = " or ".join(dict.fromkeys((CPU, *builds)))
                rule = f"must be {listed}, as runtime.accelerator, got {wanted!r}"
                raise ValueError(f"models.{model.folder}.serving.accelerator {rule}: one build is on a device")

    def _thresholds_of_listed_models(self) -> None:
        listed = [model.folder for model in self.models]
        if unknown := sorted(set(self.observability.models) - set(listed)):
            raise ValueError(f"observability.models may name {', '.join(listed)} only, got {', '.join(unknown)}")

    def _routes_lead_somewhere(self) -> None:
        _ = self.wiring

    def _names_of_things_where_the_nucleus_fills_them(self) -> None:
        nucleus = self.edge_server.nucleus
        release = tuple(int(part) for part in (nucleus.version or DEFAULT_VERSIONS[nucleus.kind]).split("."))
        for name, topics in self.wiring.handlers.items():
            if topics.name_the_thing and (nucleus.kind == "lite" or release < (2, 6)):
                raise ValueError(
                    f"handlers.{name}: a topic with {THING} needs edge_server.nucleus.kind classic or docker, "
                    "2.6.0 or newer, which fills the name into access control, got "
                    f"{nucleus.kind} {'.'.join(map(str, release))}: use one topic, and the name in the message"
                )

    def _client_devices_on_the_classic_nucleus(self) -> None:
        if self.client_devices and self.fleet.nucleus != "classic":
            raise ValueError(
                'client_devices needs fleet.nucleus = "classic": nucleus lite, which may run on a device of the stage, '
                "has no components for client devices; there, let a component of the device take their messages and "
                "publish them on its local topics, or ask by the agent's socket (docs/client-devices.md)"
            )

    def _lite_where_it_is_offered(self) -> None:
        if self.fleet.nucleus == "classic" and self.edge_server.nucleus.kind == "lite":
            raise ValueError(
                "fleet.nucleus classic leaves nucleus lite out, got edge_server.nucleus.kind lite: set it to classic "
                "or docker, or fleet.nucleus to any"
            )

    def _edge_manager_in_its_regions(self) -> None:
        wanted = [f"packager edge-manager of {each.folder}" for each in self.models if each.packager == "edge-manager"]
        wanted += ["fleet.registry sagemaker"] if self.fleet.registry == "sagemaker" else []
        if wanted and self.region not in EDGE_MANAGER_REGIONS:
            raise ValueError(
                f"{' and '.join(wanted)} needs a region with SageMaker Edge Manager, one of "
                f"{', '.join(EDGE_MANAGER_REGIONS)}, got {self.region}"
            )

    def _one_architecture(self) -> None:
        # AWS names its own Arm families by a g after the generation: t4g, m7gd.
        machine = "aarch64" if re.match(r"[a-z]+\d+g", self.instance_type) else "x86_64"
        if machine != self.runtime.architecture:
            raise ValueError(
                f"edge_server.instance_type {self.instance_type} is {machine}, "
                f"runtime.architecture is {self.runtime.architecture}: make them agree"
            )

    def _known_download(self) -> None:
        _ = self.nucleus_download
        kind, python = self.edge_server.nucleus.kind, self.runtime.python
        if python not in (packaged := SERVER_PYTHONS[kind]):
            raise ValueError(
                f"runtime.python must be one that the edge server's system has with edge_server.nucleus.kind {kind}, "
                f"{' or '.join(packaged)}, got {python}"
            )

    def _region_has_what_is_switched_on(self) -> None:
        if self.region not in GREENGRASS_REGIONS:
            raise ValueError(f"region must have AWS IoT Greengrass V2, one of {', '.join(GREENGRASS_REGIONS)}")

    def _each_has_a_component(self) -> None:
        handlers = [each.name for each in self.handlers]
        for kind, listed in (("models", [each.folder for each in self.models]), ("handlers", handlers)):
            if taken := sorted({CLOUD, DEVICES} & set(listed)):
                raise ValueError(f"{kind}: {taken[0]} is the name of a side of [[routes]]: rename it")
            components: dict[str, str] = {}
            for name in listed:
                component = Names(self.name).model_package(name)
                if (other := components.setdefault(component, name)) != name:
                    raise ValueError(f"{kind}: {other} and {name} would both be the component {component}: rename one")

    def _devices_take_their_keys(self) -> None:
        places = [(each.serving, f"models.{each.folder}.serving") for each in self.models]
        for ring, components in self.configuration.items():
            models = components.get("inference", {}).get("models", {})
            where = f"configuration.{ring}.inference.models"
            if not isinstance(models, dict) or not all(isinstance(keys, dict) for keys in models.values()):
                raise ValueError(f"{where} must hold a table a model, got {models!r:.60}")
            places += [(keys, f"{where}.{name}") for name, keys in models.items()]
        if mistakes := [line for keys, where in places for line in device_mistakes(keys, where)]:
            raise ValueError("\n".join(mistakes))
