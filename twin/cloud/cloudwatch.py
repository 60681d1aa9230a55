"""CloudWatch's missing parts: alarms that see time pass, and metric filters of log groups.

Alarms are evaluated once a second, by period, M out of N, dimensions, and with missing data, over their periods alone.
MiniStack looks at all of them whenever a metric is put, and at none otherwise: one for missing data never goes off.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch, cloudwatch_logs

from twin.clock import CLOCK
from twin.cloud.metrics import Point, Series
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud.settings import Settings

logger = logging.getLogger("twin.cloudwatch")

INTERVAL_S, _SHORTEST_S = 1.0, 0.1
"""Between two evaluations; AWS evaluates once a minute, or every 10 s for periods of 10 s."""

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}


def statistics(alarm: dict[str, Any], now: float) -> list[float | None]:
    """The alarm's statistic in each of its evaluation periods, the latest first.

    Args:
        alarm: As MiniStack keeps it.
        now: Seconds since 1970. The periods end now: on AWS they end at full minutes.

    Returns:
        A value for each period, None where there is no data.
    """
    dimensions = {each["Name"]: each["Value"] for each in alarm.get("Dimensions") or []}
    key = (alarm["Namespace"], alarm["MetricName"], cloudwatch._dims_key(dimensions))
    series, period = cloudwatch._metrics.get(key) or Series(), int(alarm.get("Period") or 60)
    name = alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average"
    periods: list[list[Point]] = [[] for _ in range(int(alarm.get("EvaluationPeriods") or 1))]
    for point in series.between(now - len(periods) * period, now):
        periods[int((now - point["Timestamp"]) // period)].append(point)
    found = [cloudwatch._calc_stats(inside) for inside in periods]
    return [
        cloudwatch._stat_value(stats, name, inside) if stats else None
        for stats, inside in zip(found, periods, strict=True)
    ]


def state(alarm: dict[str, Any], values: list[float | None]) -> str:
    """What state the values put the alarm into (CloudWatch user guide, "Configuring how alarms treat missing data").

    Args:
        alarm: As MiniStack keeps it.
        values: From `statistics`.

    Returns:
        OK, ALARM or INSUFFICIENT_DATA.

    Raises:
        ValueError: The comparison is one of anomaly detection, which the twin has not.
    """
    breaks = _COMPARISONS.get(alarm["ComparisonOperator"])
    if breaks is None:
        known = ", ".join(_COMPARISONS)
        raise ValueError(f"ComparisonOperator must be one of {known}, got {alarm['ComparisonOperator']!r}")
    missing = alarm.get("TreatMissingData") or "missing"
    there = [breaks(value, alarm["Threshold"]) for value in values if value is not None]
    if not there and missing == "missing":
        return "INSUFFICIENT_DATA"
    if not there and missing == "ignore":
        return str(alarm["StateValue"])
    breaching = sum(there) + (len(values) - len(there) if missing == "breaching" else 0)
    return "ALARM" if breaching >= int(alarm.get("DatapointsToAlarm") or len(values)) else "OK"


def evaluate(alarm: dict[str, Any]) -> None:
    """Put an alarm into its state, and tell its actions when that is a new one.

    Args:
        alarm: As MiniStack keeps it; it is changed in place.
    """
    if not alarm.get("Namespace") or not alarm.get("MetricName"):
        return
    values = statistics(alarm, CLOCK.time())
    before, now = alarm["StateValue"], state(alarm, values)
    if now == before:
        return
    shown = ", ".join("no data" if value is None else f"{value:g}" for value in values)
    reason = f"{alarm['ComparisonOperator']} {alarm['Threshold']:g}: {shown} in periods of {alarm['Period']} s"
    alarm.update(StateValue=now, StateReason=reason, StateUpdatedTimestamp=int(CLOCK.time()))
    cloudwatch._record_history(alarm["AlarmName"], before, now, reason)
    cloudwatch._dispatch_alarm_actions(alarm, before, now, reason)
    cloudwatch._evaluate_parent_alarms(alarm)


@patch("services.cloudwatch.time", why="values and alarms have the twin's time", signature="module")
def _time(by_ministack: ModuleType) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(by_ministack), "time": CLOCK.time})


@patch(
    "services.cloudwatch._evaluate_alarm",
    why="alarms are evaluated by period and with missing data",
    signature="(alarm)",
)
def _evaluate_alarm(_by_ministack: Callable[..., None], alarm: dict[str, Any]) -> None:
    evaluate(alarm)


async def evaluate_all() -> None:
    """Evaluate every alarm of every account and region; one that cannot be is logged by its name."""
    for (account, region, name), alarm in list(cloudwatch._alarms._data.items()):
        with request_scope(account, region):
            try:
                evaluate(alarm)
            except Exception:
                logger.exception("alarm %s cannot be evaluated", name)


def apply_metric_filters(data: dict[str, Any]) -> None:
    """Put the metrics of the filters on a log group for the lines of one PutLogEvents call; no pattern counts them all.

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


@patch(
    "services.cloudwatch_logs._put_log_events", why="metric filters are applied to accepted lines", signature="(data)"
)
def _put_log_events(put: Callable[..., Any], data: dict[str, Any]) -> Any:
    answer = put(data)
    if answer[0] < 400:
        apply_metric_filters(data)
    return answer


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Evaluate every second."""
    register_periodic("alarms", evaluate_all, interval_s=max(_SHORTEST_S, CLOCK.real(INTERVAL_S)))
