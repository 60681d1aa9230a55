"""A stage's components in Greengrass: versions made or taken over, kept for devices that are away, swept at destroy.

Their recipes come from templates, JSON files with placeholders such as `@VERSION@`; the version follows from them.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_cdk import CustomResource, Duration
from constructs import Construct

from edge_constructs.artifact_store import ArtifactBucket
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn, everywhere
from edge_handlers import component_library

_RANGE = 1_000_000


def content_digest(*parts: str | bytes) -> str:
    """Digest of all that makes something what it is.

    Args:
        parts: Such as a recipe, digests of artifacts, settings; order matters.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("a content version needs at least one part, got none")
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # With its length, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def content_version(*parts: str | bytes) -> str:
    """Derive a version that Greengrass accepts.

    Args:
        parts: As for `content_digest`.

    Returns:
        `1.<0 to 999999>.<0 to 999999>`, so that `>=1.0.0 <2.0.0` covers every one.

    Raises:
        ValueError: There are no parts.
    """
    number = int(content_digest(*parts), 16)
    return f"1.{number % _RANGE}.{number // _RANGE % _RANGE}"


#: Part of every nucleus; a component that depends on it is given the device's credentials.
TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
_ANY_VERSION = ">=1.0.0 <2.0.0"


def soft_dependencies(components: Iterable[str], *, credentials: bool) -> dict[str, dict[str, str]]:
    """Write ComponentDependencies; SOFT ones, because nucleus lite ends a component with its HARD ones.

    Args:
        components: Of this app.
        credentials: Whether the component needs the token exchange role.

    Returns:
        Component to version range and kind.
    """
    ranges = dict.fromkeys(components, _ANY_VERSION) | ({TOKEN_EXCHANGE: ">=2.0.0 <3.0.0"} if credentials else {})
    return {name: {"VersionRequirement": versions, "DependencyType": "SOFT"} for name, versions in ranges.items()}


def local_access(component: str, *, subscribe: Iterable[str], publish: Iterable[str]) -> dict[str, Any]:
    """Write what `aws.greengrass.ipc.pubsub` of an access control allows: these local topics and nothing else.

    Args:
        component: Whose access control it is.
        subscribe: Exact topics that it listens to.
        publish: Exact topics that it publishes to.

    Returns:
        Policy's name to policy; none for an operation without topics.
    """
    wanted = {"SubscribeToTopic": list(subscribe), "PublishToTopic": list(publish)}
    return {
        f"{component}:{operation}": {"operations": [f"aws.greengrass#{operation}"], "resources": topics}
        for operation, topics in wanted.items()
        if topics
    }


_PLACEHOLDER = re.compile(r"@([A-Z][A-Z_]*)@")
#: Nucleus lite refuses longer recipes; Greengrass (its quotas) those that are longer still.
LIMIT_BYTES, CLASSIC_LIMIT_BYTES = 8192, 16384
_CLASSIC = "aws_nucleus_classic"


def fill_recipe(template: Path, values: Mapping[str, Any]) -> str:
    """Fill a recipe template.

    A text that is nothing but a placeholder becomes the value itself, of any JSON type; elsewhere, in keys too, the
    value's text is put in.

    Args:
        template: The JSON file.
        values: Placeholder without its `@`s to value.

    Returns:
        The recipe as JSON.

    Raises:
        ValueError: The file is no JSON, has a placeholder without a value, leaves a value unused, or the recipe is too
            long for a device.
    """
    try:
        content = json.loads(template.read_text(encoding="utf-8"))
    except json.JSONDecodeError as exc:
        raise ValueError(f"{template.name}: a recipe template must be JSON: {exc}") from exc
    used: set[str] = set()
    recipe = json.dumps(_fill(content, values, used, template.name))
    if unused := sorted(set(values) - used):
        raise ValueError(f"{template.name}: each value must have a placeholder, none for {', '.join(unused)}")
    limit = CLASSIC_LIMIT_BYTES if values.get("NUCLEUS") == _CLASSIC else LIMIT_BYTES
    if (size := len(recipe.encode())) > limit:
        fix = "split the stage" if limit == CLASSIC_LIMIT_BYTES else "set fleet.nucleus to classic, or split the stage"
        raise ValueError(
            f"{template.name}: a recipe must fit into {limit} bytes, got {size}: use fewer models or shorter names, "
            f"{fix}"
        )
    return recipe


def _fill(node: Any, values: Mapping[str, Any], used: set[str], where: str) -> Any:
    if isinstance(node, dict):
        return {str(_fill(key, values, used, where)): _fill(item, values, used, where) for key, item in node.items()}
    if isinstance(node, list):
        return [_fill(item, values, used, where) for item in node]
    if not isinstance(node, str):
        return node
    names = _PLACEHOLDER.findall(node)
    if missing := sorted(set(names) - set(values)):
        raise ValueError(f"{where}: each placeholder must have a value, none for @{'@, @'.join(missing)}@ in {node!r}")
    used.update(names)
    if names and node == f"@{names[0]}@":
        return values[names[0]]
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), node)


_NAMED_BY_SERVICE = "Greengrass names deployments and their jobs"


class ComponentLibrary(Construct):
    """Keeps every version of a stage's components until no deployment names the component, and sweeps on delete.

    A version outlives its resource, since a device that was away may still need it; content that comes back finds it
    and takes it over, where CloudFormation's own resource fails with AlreadyExists.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        components: What the names of the stage's components start with, with a trailing dot.
        rings: Ring to its thing group, which deployments target; `all` names the sweep.
        bucket: Holds the artifacts, which Greengrass reads with the rights of whoever makes a version.
        tags: Of every version.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        components: str,
        rings: Mapping[str, str],
        bucket: ArtifactBucket,
        tags: Mapping[str, str],
    ) -> None:
        super().__init__(scope, construct_id)
        self._components = components
        self._tags = dict(tags)
        targets = {ring: arn("iot", f"thinggroup/{group}") for ring, group in rings.items()}
        self._targets = tuple(targets.values())
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=component_library,
            permissions=[
                *_sweeping(components, tuple(targets.values())),
                *_making(components, tuple(tags)),
                *bucket.reading("artifacts/", "models/"),
            ],
            limit=Duration.minutes(14),
        )
        self._sweep = self._provider.resource(
            self,
            "Sweep",
            component_library.ComponentSweep(
                names=(f"{components}*",),
                target_arn=targets["all"],
                ring_arns=tuple(target for ring, target in targets.items() if ring != "all"),
            ),
        )

    def version(self, scope: Construct, construct_id: str, *, name: str, version: str, recipe: str) -> CustomResource:
        """Define a component version.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            name: The component's name, which must start as the library's do: the sweep takes no others.
            version: Its version.
            recipe: JSON that says the same name and version.

        Returns:
            The resource; its `Ref` is the version's ARN.

        Raises:
            ValueError: The name is not one of the library.
        """
        if not name.startswith(self._components):
            raise ValueError(f"a component's name must start with {self._components}, got {name}: it would never go")
        made = self._provider.resource(
            scope,
            construct_id,
            component_library.ComponentVersion(
                arn=arn("greengrass", f"components:{name}:versions:{version}"),
                recipe=recipe,
                tags=self._tags,
                targets=self._targets,
            ),
        )
        # Deletion runs backwards: the sweep comes when no deployment and no version is left to CloudFormation.
        made.node.add_dependency(self._sweep)
        return made


def _making(components: str, tags: tuple[str, ...]) -> Sequence[Permission]:
    return [
        Permission(
            ("greengrass:CreateComponentVersion",),
            ("*",),
            wildcard_reason="the service knows no resource for this action; other tags than the stage's are refused",
            conditions={"ForAllValues:StringEquals": {"aws:TagKeys": [*tags, component_library.DIGEST_TAG]}},
        ),
        Permission(
            ("greengrass:DescribeComponent", "greengrass:GetComponent", "greengrass:TagResource"),
            (arn("greengrass", f"components:{components}*:versions:*"),),
            wildcard_reason="versions follow from content: they are not known before",
        ),
    ]


def _sweeping(components: str, targets: tuple[str, ...]) -> Sequence[Permission]:
    versions = "the sweep takes every version of every component of this stage"
    jobs = ("iot:CancelJob", "iot:DeleteJob", "iot:DescribeJob", "iot:UpdateJob")
    shadows = ("iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow")
    return [
        everywhere("greengrass:ListDeployments", "greengrass:ListComponents"),
        Permission(
            ("greengrass:CancelDeployment", "greengrass:DeleteDeployment", "greengrass:GetDeployment"),
            (arn("greengrass", "deployments:*"),),
            wildcard_reason=_NAMED_BY_SERVICE,
        ),
        Permission(jobs, (arn("iot", "job/*"),), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(
            ("iot:DescribeThing", *shadows),
            (arn("iot", "thing/*"),),
            wildcard_reason="Greengrass acts on the target's things with the caller's rights",
        ),
        Permission(("iot:DescribeThingGroup",), targets),
        Permission(
            ("greengrass:ListComponentVersions",),
            (arn("greengrass", f"components:{components}*"),),
            wildcard_reason=versions,
        ),
        Permission(
            ("greengrass:DeleteComponent",),
            (arn("greengrass", f"components:{components}*:versions:*"),),
            wildcard_reason=versions,
        ),
    ]


def component_version(recipe: Path, values: Mapping[str, Any], digests: Sequence[str]) -> str:
    """Derive the version of a component from all that it consists of.

    Args:
        recipe: The template.
        values: Placeholder to value, all but VERSION and ARTIFACT_URI.
        digests: Of the artifact, or of all that it is made from.

    Returns:
        The version.
    """
    return content_version(fill_recipe(recipe, {**values, "VERSION": "", "ARTIFACT_URI": ""}), *digests)


class Component(Construct):
    """One version of a component; a changed one is added, and the one before stays for devices that are offline.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        library: Keeps its versions.
        name: The component's name.
        version: Its version, see `component_version`.
        recipe: The template.
        values: Placeholder to value, all but VERSION and ARTIFACT_URI.
        artifact_uri: S3 URI of the artifact.
        after: The component to create before this one: Greengrass takes one a second and refuses more.
        settings: What it reads besides its own configuration; no part of the recipe, so that a change of them brings
            no new version and no artifact to devices. A deployment brings them, see `FleetDeployment`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        library: ComponentLibrary,
        name: str,
        version: str,
        recipe: Path,
        values: Mapping[str, Any],
        artifact_uri: str,
        after: "Component | None" = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.settings = dict(settings or {})
        self.name = name
        self.version = version
        self.resource = library.version(
            self,
            "Version",
            name=name,
            version=version,
            recipe=fill_recipe(recipe, {**values, "VERSION": version, "ARTIFACT_URI": artifact_uri}),
        )
        if after:
            self.resource.node.add_dependency(after.resource)
