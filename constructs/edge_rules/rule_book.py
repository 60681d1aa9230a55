"""All rules: importing this module registers them."""

from collections.abc import Iterator

from edge_rules import (  # noqa: F401 (each registers its rules)
    access_rules,
    deployment_rules,
    identity_rules,
    nucleus_rules,
    recipe_rules,
    retired_rules,
    script_rules,
    unit_rules,
    wheel_rules,
)
from edge_rules.fleet_view import FleetView
from edge_rules.rule import RULES, Finding, Rule

__all__ = ["RULES", "find"]


def find(fleet: FleetView) -> Iterator[tuple[Rule, list[Finding]]]:
    """Check all rules.

    Args:
        fleet: What to check.

    Returns:
        Each broken rule with all that breaks it.
    """
    for rule in RULES.values():
        if findings := list(rule.check(fleet)):
            yield rule, findings
