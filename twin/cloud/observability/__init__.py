"""What watches the fleet on AWS and MiniStack lacks: rule actions, metric filters, alarms that see time pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.cloud.registry import Settings


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Extend MiniStack's rules engine, CloudWatch and CloudWatch Logs."""
    # Imported here, so that the modules that need no MiniStack can be used without it.
    from twin.cloud.observability import alarm_evaluation, metric_filters, rule_actions, rule_functions

    rule_functions.install()
    rule_actions.install()
    metric_filters.install()
    alarm_evaluation.install()
