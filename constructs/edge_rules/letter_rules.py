"""A rule on names that the classic nucleus does not tell apart, and nucleus lite does."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edge_rules.device_view import devices
from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import DEPLOYMENT, PLACE, recipes
from edge_rules.rule import Finding, rule


@rule(
    "LetterCase",
    "component names of a device, and keys of one object of a configuration, must differ in more than capital letters",
    reason="to the classic nucleus they are one: the second value replaces the first, a second component never runs",
    fix="spell them alike, or give one another name",
    source="observed",
)
def names_differ(fleet: FleetView) -> Iterator[Finding]:
    for device in devices(fleet):
        for pair in _alike(device.wanted):
            yield Finding(device.deployments[0], "Properties/Components", pair)
    defaults = {recipe.name: recipe.configuration for recipe in recipes(fleet)}
    for recipe in recipes(fleet):
        for path, pair in _keys_alike(recipe.configuration):
            yield Finding(recipe.resource, f"{PLACE}/ComponentConfiguration{path}", pair)
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in (deployment.properties.get("Components") or {}).items():
            merge = _parsed(deployment.text((wanted.get("ConfigurationUpdate") or {}).get("Merge")))
            before = set(_keys_alike(defaults.get(name, {})))
            for path, pair in _keys_alike(defaults.get(name, {}), merge):
                if (path, pair) not in before:
                    yield Finding(deployment, f"Properties/Components/{name}/ConfigurationUpdate/Merge{path}", pair)


def _parsed(text: str) -> Mapping[str, Any]:
    """A merge that is known in the cloud only is passed over."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _keys_alike(*objects: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Where keys of objects that are merged differ in case only, and which."""
    keys = list(dict.fromkeys(key for each in objects for key in each))
    for pair in _alike(keys):
        yield path, pair
    for key in keys:
        below = [each[key] for each in objects if isinstance(each.get(key), Mapping)]
        yield from _keys_alike(*below, path=f"{path}/{key}")


def _alike(names: Iterable[str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            yield f"{other} and {name}"
