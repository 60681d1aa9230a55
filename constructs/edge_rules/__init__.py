"""Checks that keep known mistakes from reaching devices: `Validations.of(app).add_plugins(EdgeChecks(app))`."""

from edge_rules.edge_checks import EdgeChecks

__all__ = ["EdgeChecks"]
