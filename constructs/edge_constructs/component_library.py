"""A stage's components in Greengrass: versions made or taken over, kept for devices that are away, swept at destroy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_cdk import CustomResource, Duration
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn
from edge_constructs.recipe import content_version, fill_recipe
from edge_handlers import component_library

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
        Permission(
            ("greengrass:ListDeployments", "greengrass:ListComponents"),
            ("*",),
            wildcard_reason="the service knows no resource for these actions",
        ),
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
