"""Checks that keep known mistakes from reaching devices: `Validations.of(app).add_plugins(EdgeChecks(app))`.

The rules themselves read files and need no CDK: only the plugin imports it, when it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_rules.edge_checks import EdgeChecks

__all__ = ["EdgeChecks"]


def __getattr__(name: str) -> Any:
    if name != "EdgeChecks":
        raise AttributeError(f"edge_rules has no attribute {name!r}")
    from edge_rules.edge_checks import EdgeChecks

    return EdgeChecks
