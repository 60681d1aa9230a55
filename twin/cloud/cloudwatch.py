"""CloudWatch's missing parts: metrics within bounds, alarms that see time pass, and metric filters of log groups.

A metric costs as much with a thousand values a second as with one, and no more after a day: MiniStack keeps every value
that was ever put, looks through all at each request, and writes them down each second.

Alarms are evaluated once a second, by period, M out of N, dimensions, and with missing data, over their periods alone.
MiniStack looks at all of them whenever a metric is put, and at none otherwise: one for missing data never goes off.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch, cloudwatch_logs

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud_process import Settings

SECONDS = 900
"""Seconds with values that are kept one by one; alarms that look back further see the rest by the minute."""

MINUTES = 1440
"""Minutes with values that are kept besides."""

VALUES = 32
"""Different values in one second or minute that are kept exactly; beyond, those of the same three digits are one."""

SERIES = 5000
"""Metrics of all accounts; a new one beyond that takes the place of the one that is silent for the longest time."""

HISTORY = 1000
"""Changes of state of alarms that are remembered."""

Point = dict[str, Any]
_Values = dict[float, tuple[float, float]]


class Series:
    """The values of one metric, as points for MiniStack's readers: each with how often it was seen.

    Counts and sums are exact. A value is that of others with the same three digits where there are many.
    """

    def __init__(self) -> None:
        self.unit, self.dimensions = "None", dict[str, str]()
        # Start of the second or minute → generation, values. One of an earlier generation is never changed.
        self._seconds: dict[int, tuple[int, _Values]] = {}
        self._minutes: dict[int, tuple[int, _Values]] = {}
        self._generation = 0

    def append(self, point: Point) -> None:
        """Take a point of MiniStack: one value, a value with its count, or a set of statistics."""
        self.unit, self.dimensions = point.get("Unit", "None"), point.get("Dimensions") or {}
        for value, count, total in _parts(point):
            self._add(self._seconds, int(point["Timestamp"]), value, count, total)
        if len(self._seconds) > SECONDS:
            oldest = min(self._seconds)
            for value, (count, total) in self._seconds.pop(oldest)[1].items():
                self._add(self._minutes, oldest // 60 * 60, value, count, total)
            if len(self._minutes) > MINUTES:
                del self._minutes[min(self._minutes)]

    def _add(self, into: dict[int, tuple[int, _Values]], start: int, value: float, count: float, total: float) -> None:
        generation, values = into.get(start, (self._generation, {}))
        if generation != self._generation:
            values = dict(values)
        if value not in values and len(values) >= VALUES:
            values = _coarse(values)
            value = _rounded(value)
        before = values.get(value, (0.0, 0.0))
        values[value] = (before[0] + count, before[1] + total)
        into[start] = (self._generation, values)

    @property
    def latest(self) -> int:
        """Start of the latest second with a value, since 1970."""
        return max(self._seconds, default=0)

    def between(self, start: float, end: float) -> Iterator[Point]:
        """The points after a time and up to another one, in no order.

        Args:
            start: Seconds since 1970.
            end: Seconds since 1970.
        """
        for kept in (self._minutes, self._seconds):
            for begin, (_, values) in kept.items():
                if start < begin <= end:
                    yield from self._points(begin, values)

    def _points(self, begin: int, values: _Values) -> Iterator[Point]:
        for count, total in values.values():
            point = {"Timestamp": float(begin), "Value": total / count, "Count": count}
            yield {**point, "Unit": self.unit, "Dimensions": self.dimensions}

    def __iter__(self) -> Iterator[Point]:
        for kept in (self._minutes, self._seconds):
            for begin in sorted(kept):
                yield from self._points(begin, kept[begin][1])

    def __len__(self) -> int:
        return sum(len(values) for kept in (self._minutes, self._seconds) for _, values in kept.values())

    def __getitem__(self, index: int) -> Point:
        return list(self)[index]

    def __deepcopy__(self, _memo: dict[int, Any]) -> dict[str, Any]:
        """What is written down: made in no time, and not changed while it is written."""
        self._generation += 1
        kept = {"seconds": dict(self._seconds), "minutes": dict(self._minutes)}
        return {"unit": self.unit, "dimensions": self.dimensions, **kept}

    @classmethod
    def read(cls, written: Any) -> Series:
        """What was written down, by this release or by one that kept points.

        Args:
            written: Read from JSON.
        """
        made = cls()
        if isinstance(written, Mapping):
            made.unit, made.dimensions = written["unit"], written["dimensions"]
            for name, into in (("seconds", made._seconds), ("minutes", made._minutes)):
                for begin, (_, values) in written[name].items():
                    read = {float(value): (float(count), float(total)) for value, (count, total) in values.items()}
                    into[int(begin)] = (0, read)
            return made
        for point in written:
            made.append(point)
        return made


def _parts(point: Point) -> list[tuple[float, float, float]]:
    """Value, count, sum of each part: of a set of statistics the smallest, the largest, and the mean of the rest."""
    count, total, low, high = cloudwatch._point_stats(point)
    if count <= 0:
        return []
    if point.get("_stat") is None or count < 2:
        return [(total / count, count, total)]
    rest = count - 2
    middle = [((total - low - high) / rest, rest, total - low - high)] if rest else []
    return [(low, 1.0, low), *middle, (high, 1.0, high)]


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def _coarse(values: _Values) -> _Values:
    coarse: _Values = {}
    for value, (count, total) in values.items():
        before = coarse.get(_rounded(value), (0.0, 0.0))
        coarse[_rounded(value)] = (before[0] + count, before[1] + total)
    return coarse


@patch("services.cloudwatch._metric_bucket", why="metrics take a bounded room", signature="(key)")
def _metric_bucket(_by_ministack: Callable[..., Any], key: tuple[str, ...]) -> Series:
    found: Series | None = cloudwatch._metrics.get(key)
    if found is not None:
        return found
    everything: dict[Any, Series] = cloudwatch._metrics._data
    if len(everything) >= SERIES:
        del everything[min(everything, key=lambda each: everything[each].latest)]
    made = cloudwatch._metrics[key] = Series()
    return made


@patch("services.cloudwatch._restore_state", why="metrics take a bounded room", signature="(data)")
def _restore_state(restore: Callable[[Any], None], data: Any) -> None:
    restore(data)
    everything: dict[Any, Any] = cloudwatch._metrics._data
    everything.update({key: Series.read(each) for key, each in everything.items() if not isinstance(each, Series)})


@patch(
    "services.cloudwatch._evict_old_metrics",
    why="a request costs the same after a million values: metrics let go of old ones as new ones come",
    signature="()",
)
def _evict_old_metrics(_by_ministack: Callable[[], None]) -> None:
    return


@patch(
    "services.cloudwatch._evaluate_all_alarms",
    why="alarms are evaluated by the clock, not by each value that is put",
    signature="()",
)
def _evaluate_all_alarms(_by_ministack: Callable[[], None]) -> None:
    return


@patch(
    "services.cloudwatch._record_history",
    why="an alarm that comes and goes for ever is remembered by its latest changes",
    signature="(alarm_name, old_state, new_state, reason, alarm_type='MetricAlarm', reason_data=None)",
)
def _record_history(record: Callable[..., None], *arguments: Any, **named: Any) -> None:
    record(*arguments, **named)
    del cloudwatch._history_entries()[:-HISTORY]


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
