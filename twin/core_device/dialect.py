"""Whose limits and quirks the device has: nucleus lite's, or the classic nucleus'.

What works on the classic nucleus and not on nucleus lite is found before a component is installed. The real one often
fails late or in silence (a script that is cut, a step that is never run); this device refuses the deployment and says
which part of which recipe breaks which rule. Each rule was observed on nucleus lite 2.6.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nucleus_lite import configuration, deployment, recipe
from twin.core_device.ipc.operations import IpcLimits

from .errors import DeploymentError

_CLASSIC_IPC = IpcLimits(
    message_bytes=24 << 20,  # the clients' own limit
    clients=1_000,
    subscriptions=10_000,
    payload_bytes=128 << 10,  # IoT Core's quota
    nesting=None,
    items=None,
    value_bytes=None,
    levels=None,
    receive_modes=True,
    pings=True,
    tells_refusal=True,
    ends_answers=True,
)


@dataclass(frozen=True)
class Dialect:
    """The behaviour of a nucleus, as far as components can tell; the defaults are those of nucleus lite.

    Args:
        name: As in the device's configuration.
        runtime: The platform attribute that manifests are selected by.
        patterns: A manifest's attribute may be a regular expression between slashes.
        all_steps: `shutdown`, `recover` and `Skipif` work, and variables of other components.
        binds_to: A HARD dependency that ends stops its dependents, whatever its exit status (systemd's `BindsTo`).
        packet_bytes: Longest MQTT packet that it can receive; a longer one drops the link. None for no own limit.
        keeps_messages: Messages of QoS 1 are taken while the device is not connected, and sent later.
        ipc: What components may ask.
        file_mode: Rights of an artifact's files where the recipe has no Permission; those in a ZIP do not count.
        starts_configured: A component for which a deployment has a configuration, changed or not, is stopped and
            started; it hears of the change before, but of nothing that a reset takes away.
        rolls_back: A deployment that fails is undone where it asks for that; else what it has changed stays.
        groups_only: A deployment to a group takes away what one to the thing has brought.
        keeps_pre_releases: A component of a pre-release version stays, also when nobody wants it any more.
        keeps_work_folders: What a component has written stays when it is removed, for one that comes under its name.
        ignores_case: Component names, and keys of configurations, that differ in capital letters only are one.
        null_credentials: Components get new credentials at each request, and `null` while the cloud is not reached.
        start_window_s: Failures within so long count together, whatever ran well between them; None: those in a row.
        install_attempts: How often an install step is tried.
        sends_properties: MQTT 5 properties and the retain flag of components' messages reach the cloud.
        escapes_values: `{configuration:/x}` gives text for double quotes: `"`, `$`, a backtick and backslashes escaped.
        missing_stays: `{configuration:/x}` stays as text where the configuration has no such key.
        fills_policies: `{iot:thingName}` in access control is the device's name.
        plays_plugins: AWS's components for client devices run, which are plugins of the Java nucleus.
    """

    name: str
    runtime: str
    patterns: bool = False
    all_steps: bool = False
    binds_to: bool = True
    packet_bytes: int | None = deployment.PACKET_BYTES.value
    keeps_messages: bool = False
    ipc: IpcLimits = field(default_factory=IpcLimits)
    file_mode: int = 0o755
    starts_configured: bool = True
    rolls_back: bool = False
    null_credentials: bool = True
    groups_only: bool = True
    keeps_pre_releases: bool = True
    keeps_work_folders: bool = True
    ignores_case: bool = False
    start_window_s: float | None = recipe.START_WINDOW_S
    install_attempts: int = recipe.ATTEMPTS.value
    sends_properties: bool = False
    escapes_values: bool = True
    missing_stays: bool = False
    fills_policies: bool = False
    plays_plugins: bool = False


LITE = Dialect(name="lite", runtime="aws_nucleus_lite")
CLASSIC = Dialect(
    name="classic",
    runtime="aws_nucleus_classic",
    patterns=True,
    all_steps=True,
    binds_to=False,
    packet_bytes=None,
    keeps_messages=True,
    ipc=_CLASSIC_IPC,
    file_mode=0o440,
    starts_configured=False,
    rolls_back=True,
    null_credentials=False,
    groups_only=False,
    keeps_pre_releases=False,
    keeps_work_folders=False,
    ignores_case=True,
    start_window_s=None,
    install_attempts=1,
    sends_properties=True,
    escapes_values=False,
    missing_stays=True,
    fills_policies=True,
    plays_plugins=True,
)

DIALECTS = {dialect.name: dialect for dialect in (LITE, CLASSIC)}


KIND = "NUCLEUS_LITE_LIMIT"

VARIABLE = re.compile(r"\{(artifacts|work|kernel|iot|configuration):([^{}\s]+)\}")
FOREIGN_VARIABLE = re.compile(r"\{([A-Za-z0-9_.-]+):((?:artifacts|work|configuration):[^{}\s]+)\}")
"""A variable of another component; only the classic nucleus knows them."""


def check_recipe(document: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Check a recipe in canonical form, with the manifest that was selected of it.

    Raises:
        DeploymentError: It breaks rules; all of them are listed.
    """
    broken = [*_recipe_rules(document), *_lifecycle_rules(manifest.get("Lifecycle") or {})]
    if broken:
        name, version = document.get("ComponentName"), document.get("ComponentVersion")
        raise DeploymentError(f"component {name} {version} does not work on nucleus lite: {'; '.join(broken)}", KIND)


def check_document(document: Mapping[str, Any]) -> None:
    """Check a deployment's job document.

    Raises:
        DeploymentError: It breaks rules; all of them are listed.
    """
    keys, limit = deployment.keys(document), deployment.KEYS.value
    broken = [f"a deployment document must have at most {limit} keys in all, got {keys}"] if keys > limit else []
    for name, entry in (document.get("components") or {}).items():
        merge = (entry.get("configurationUpdate") or {}).get("merge")
        broken += _value_rules(f"components.{name}.configurationUpdate.merge", merge)
    if broken:
        raise DeploymentError(f"the deployment does not work on nucleus lite: {'; '.join(broken)}", KIND)


def check_requirement(component: str, dependency: str, requirement: str) -> None:
    """Check what a component requires of a dependency that has been resolved already.

    Raises:
        DeploymentError: Nucleus lite compares by >= and < only.
    """
    if not recipe.RANGE.value.fullmatch(requirement.strip()):
        raise DeploymentError(
            f"already resolved component {dependency} does not meet {requirement!r} of {component} on nucleus lite: "
            "there a range must be made of >= and <",
            KIND,
        )


def check_letters(names: Collection[str]) -> None:
    """Check that a device of the classic nucleus can tell its components apart.

    Args:
        names: All of the new state.

    Raises:
        DeploymentError: Two differ in capital and small letters only.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise DeploymentError(
                f"components {other} and {name} are one to the classic nucleus, which does not tell capital from small "
                "letters: give one of them another name",
                "COMPONENT_NAME_CONFLICT",
            )


def check_components(names: Collection[str], removed: Collection[str]) -> None:
    """Check how many components a device is to have.

    Args:
        names: All of the new state, TokenExchangeService included.
        removed: Those that go with this deployment.

    Raises:
        DeploymentError: There are too many.
    """
    if (count := len(names) + len(removed)) > (limit := deployment.COMPONENTS.value):
        raise DeploymentError(
            f"nucleus lite reports at most {limit} components on a device, those of all its groups, "
            f"TokenExchangeService and {len(removed)} just removed counted, got {count}: put what belongs together "
            "into one component",
            KIND,
        )


def check_status(thing: str, components: Mapping[str, tuple[str, Collection[str]]]) -> None:
    """Check how much a device would say of its components.

    Args:
        thing: The device.
        components: Name to version and the ARNs of the revisions that it is there for.

    Raises:
        DeploymentError: Nucleus lite would never send it.
    """
    if (size := deployment.status_bytes(components, thing)) > (limit := deployment.STATUS_BYTES.value):
        raise DeploymentError(
            f"the device's fleet status must be at most {limit} bytes on nucleus lite, got about {size} with "
            f"{len(components)} components: give components and groups shorter names",
            KIND,
        )


def _recipe_rules(document: Mapping[str, Any]) -> Iterator[str]:
    size = len(json.dumps({k: v for k, v in document.items() if k != "arn"}, separators=(",", ":")).encode())
    if size > recipe.BYTES.value:
        yield f"a recipe must be at most {recipe.BYTES.value} bytes, got {size}: put logic into an artifact"
    parts, limit = recipe.parts({k: v for k, v in document.items() if k != "arn"}), recipe.PARTS.value
    if parts > limit:
        yield f"a recipe must have at most {limit} parts, two a key and one an item of a list, got {parts}"
    defaults = (document.get("ComponentConfiguration") or {}).get("DefaultConfiguration") or {}
    yield from _value_rules("DefaultConfiguration", defaults)
    access = defaults.get("accessControl")
    for service, policies in access.items() if isinstance(access, dict) else ():
        size, limit = configuration.memory_bytes(policies), configuration.ACCESS_BYTES.value
        if size > limit:
            yield f"accessControl.{service} must take at most {limit} bytes of memory, got {size}: use fewer topics"
        for topic in configuration.variables_in(policies):
            yield f"accessControl.{service}: {topic!r} is compared as it stands: name no variable in it"
    yield from _unit_rules(document)


def _unit_rules(document: Mapping[str, Any]) -> Iterator[str]:
    if problem := recipe.name_problem(str(document.get("ComponentName") or "")):
        yield f"the component's name must be one of a systemd unit: {problem}"
    if problem := recipe.description_problem(str(document.get("ComponentDescription") or "")):
        yield f"ComponentDescription must be one plain line: {problem}"
    if (size := recipe.unit_bytes(document)) > (limit := recipe.UNIT_BYTES.value):
        yield f"its systemd unit must be at most {limit} bytes, got about {size}: depend on fewer components"


def _lifecycle_rules(lifecycle: Mapping[str, Any]) -> Iterator[str]:
    steps = {key.lower(): value for key, value in lifecycle.items()}
    yield from _environment_rules("setenv", steps.pop("setenv", None))
    for name in recipe.SHUTDOWN.value:
        if steps.get(name):
            yield f"the step {name} is never run: clean up in the run step"
    if steps.get("bootstrap"):
        yield "the step bootstrap reboots the device, and its result never reaches the cloud: prepare in install"
    if steps.get("startup"):
        yield "the step startup fails when it ends with 0: start the program in the run step"
    if "install" in steps and not {"run", "startup"} & steps.keys():
        yield "a component with an install step only never becomes healthy: give it a run step that ends with 0"
    for name, step in steps.items():
        fields = {key.lower(): value for key, value in step.items()} if isinstance(step, dict) else {"script": step}
        yield from _environment_rules(f"{name}.setenv", fields.get("setenv"))
        if fields.get("skipif"):
            yield f"Skipif of the step {name} is not known, the step is always run: ask in the script"
        yield from _script_rules(name, str(fields.get("script") or ""))


def _script_rules(step: str, script: str) -> Iterator[str]:
    at = 0
    while (at := script.find("{", at)) >= 0:
        if not VARIABLE.match(script, at):
            rest = script[at : at + 30]
            yield (
                f"the script of {step} is cut at character {at + 1}, before {rest!r}, which is no recipe variable: put "
                "braces (${VAR}, functions, JSON, variables of other components) into a file"
            )
            return
        at += 1


def _environment_rules(where: str, entries: Any) -> Iterator[str]:
    for name, value in (entries or {}).items():
        if problem := recipe.environment_problem(value):
            yield f"{where}.{name} must be {problem}, got {value!r}"


def _value_rules(where: str, content: Any) -> Iterator[str]:
    for path, size in configuration.long_values(content or {}):
        limit = configuration.VALUE_BYTES.value
        yield f"{'.'.join((where, *path))} must be at most {limit} bytes as encoded JSON, got {size}"
    widest, limit = configuration.widest(content or {}), configuration.KEYS_OF_OBJECT.value
    if widest > limit:
        yield f"{where} must have at most {limit} keys in one object, got {widest}"
    levels, limit = configuration.levels(content or {}), configuration.LEVELS.value
    if levels > limit:
        yield f"{where} must have at most {limit} levels, got {levels}"
