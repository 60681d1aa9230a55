"""Rules on what nucleus lite makes systemd units of; each names its source."""

from collections.abc import Iterator

from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import PLACE, recipes
from edge_rules.rule import Finding, rule
from nucleus_lite import unit


@rule(
    "ComponentName",
    "a component's name must be one of a systemd unit, and no other component's",
    reason="nucleus lite runs ggl.<name>.service, ggl.<name>.install.service and, its own, ggl.core.<daemon>.service",
    fix="write letters, digits, '.', '-' and '_', at most 128, without core. before and .install or .bootstrap behind",
    fact=unit.NAME,
)
def names_are_units(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        if recipe.name and (problem := unit.name_problem(recipe.name)):
            yield Finding(recipe.resource, f"{PLACE}/ComponentName", f"{recipe.name[:60]!r} ({problem})")


@rule(
    "ComponentDescription",
    "a component's description must be one line without % and without a backslash at its end",
    reason="nucleus lite writes it into a systemd unit as it is: a second line there is a setting of its own",
    fix="write one plain sentence",
    fact=unit.DESCRIPTION,
)
def descriptions_are_one_line(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        text = str(recipe.body.get("ComponentDescription", ""))
        if problem := unit.description_problem(text):
            yield Finding(recipe.resource, f"{PLACE}/ComponentDescription", problem)


@rule(
    "UnitSize",
    "the systemd unit of a component must fit into 2048 bytes",
    reason="nucleus lite writes it into a buffer of that size: description and dependencies make it longer",
    fix="depend on fewer components, or give them shorter names",
    fact=unit.BYTES,
)
def units_fit(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        size = unit.unit_bytes(recipe.body)
        if recipe.on_lite and size > unit.BYTES.value:
            yield Finding(recipe.resource, f"{PLACE}/ComponentDependencies", f"about {size} bytes")
