"""Metric filters of log groups, which MiniStack keeps and never applies: an empty pattern counts every line."""

from __future__ import annotations

import logging
from typing import Any

from ministack.services import cloudwatch, cloudwatch_logs

logger = logging.getLogger("twin.metric_filters")


def apply(data: dict[str, Any]) -> None:
    """Put the metrics of the filters on a log group for the lines of one PutLogEvents call.

    Args:
        data: The call's parameters.
    """
    group = data.get("logGroupName")
    for found in list(cloudwatch_logs._metric_filters.values()):
        if found["logGroupName"] != group:
            continue
        if found["filterPattern"]:
            logger.warning(
                "metric filter %s of %s: the twin applies an empty filterPattern only, got %r: nothing counted",
                found["filterName"],
                group,
                found["filterPattern"],
            )
            continue
        for metric in found["metricTransformations"] * len(data.get("logEvents") or []):
            name, value, unit = metric["metricName"], float(metric["metricValue"]), metric.get("unit", "None")
            cloudwatch.record_metric(metric["metricNamespace"], name, value, unit)


def install() -> None:
    """Apply the filters to every accepted PutLogEvents call."""
    put = cloudwatch_logs._put_log_events

    def put_log_events(data: dict[str, Any]) -> Any:
        answer = put(data)
        if answer[0] < 400:
            apply(data)
        return answer

    cloudwatch_logs._put_log_events = put_log_events
