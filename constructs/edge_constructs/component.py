"""Versions of Greengrass components."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from constructs import Construct

from edge_constructs.component_library import ComponentLibrary
from edge_constructs.content_version import content_version
from edge_constructs.recipe import fill_recipe


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
        settings: What deployments merge into its configuration; no part of the recipe, so that a change of them brings
            no new version and no artifact to devices.
        resets: Keys of its configuration that each deployment puts back to the recipe's default, or away, before it
            merges: what is not set any more would stay on devices. Never `accessControl`: without it for a moment,
            what the component publishes meanwhile would be refused.

    Raises:
        ValueError: A key of the settings is not among the resets.
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
        resets: Sequence[str] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        self.settings, self.resets = dict(settings or {}), tuple(resets)
        if stale := sorted(set(self.settings) - set(self.resets)):
            raise ValueError(f"resets of {name} must name every key of its settings, got no {', '.join(stale)}")
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
