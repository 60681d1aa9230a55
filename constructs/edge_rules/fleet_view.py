"""What the rules look at: the templates and assets of one cloud assembly."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_rules.template_text import as_text

_REFERENCE = re.compile(r"<([^<>/ ]+)/([^<>. ]+)(?:\.[^<>]*)?>")
_DIGEST = re.compile(r"\b[0-9a-f]{32,64}\b")


@dataclass(frozen=True)
class Resource:
    """One resource of a template.

    Attributes:
        fleet: The view that it belongs to.
        stack: Its template, as `FleetView.templates` names it.
        logical_id: Its key there.
        body: All that the template says of it.
    """

    fleet: "FleetView" = field(repr=False, compare=False)
    stack: str
    logical_id: str
    body: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def type(self) -> str:
        """CloudFormation's name of what it is."""
        return str(self.body.get("Type", ""))

    @property
    def properties(self) -> Mapping[str, Any]:
        """Its properties; empty if it has none."""
        return self.body.get("Properties") or {}

    def text(self, value: Any) -> str:
        """Write a value of this resource's template as text."""
        return as_text(value, self.stack, self.fleet.export)

    def texts(self, value: Any) -> list[str]:
        """Write a value that may be one or a list as texts."""
        return [self.text(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


@dataclass(frozen=True)
class FleetView:
    """Templates and assets, read once and shared by all rules.

    Attributes:
        templates: Stack to its parsed template.
        assets: Digest to the file or folder that is published under it.
    """

    templates: Mapping[str, Mapping[str, Any]]
    assets: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> "FleetView":
        """Read templates and the asset manifests beside them.

        Args:
            paths: `<Stack>.template.json` files of one assembly.
        """
        templates, assets = {}, {}
        for path in paths:
            name = path.name.removesuffix(".template.json")
            templates[name] = json.loads(path.read_text(encoding="utf-8"))
            manifest = path.with_name(f"{name}.assets.json")
            if manifest.is_file():
                files = json.loads(manifest.read_text(encoding="utf-8")).get("files", {})
                for digest, entry in files.items():
                    if "path" in entry.get("source", {}):
                        assets[digest] = path.parent / entry["source"]["path"]
        return cls(templates, assets)

    @cached_property
    def resources(self) -> list[Resource]:
        """Every resource of every template."""
        return [
            Resource(self, stack, logical_id, body)
            for stack, template in self.templates.items()
            for logical_id, body in (template.get("Resources") or {}).items()
        ]

    def of_type(self, *types: str) -> Iterator[Resource]:
        """The resources of some types."""
        return (resource for resource in self.resources if resource.type in types)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], Resource]:
        return {(resource.stack, resource.logical_id): resource for resource in self.resources}

    @cached_property
    def _exports(self) -> dict[str, tuple[str, Any]]:
        return {
            as_text(output["Export"]["Name"], stack, str): (stack, output.get("Value"))
            for stack, template in self.templates.items()
            for output in (template.get("Outputs") or {}).values()
            if "Export" in output
        }

    def export(self, name: str) -> str:
        """Say what an export of one of the stacks stands for, `<import NAME>` if none has it."""
        if name not in self._exports:
            return f"<import {name}>"
        stack, value = self._exports[name]
        return as_text(value, stack, self.export)

    def referenced(self, text: str) -> Iterator[Resource]:
        """The resources that a text speaks of."""
        for stack, logical_id in _REFERENCE.findall(text):
            if (stack, logical_id) in self._by_place:
                yield self._by_place[stack, logical_id]

    def asset(self, text: str) -> Path | None:
        """Find the asset that a location comes from: by a digest in it, or in the resource that it refers to."""
        digests = _DIGEST.findall(text)
        for resource in self.referenced(text):
            digests += _DIGEST.findall(resource.text(resource.properties))
        found = (self.assets[digest] for digest in digests if digest in self.assets)
        return next(found, None)
