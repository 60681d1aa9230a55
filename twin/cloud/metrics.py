"""What CloudWatch keeps of a metric: as much for a thousand values a second as for one, and no more after a day.

MiniStack keeps every value that was ever put, looks through all at each request, and writes them down each second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ministack.services import cloudwatch

from twin.cloud.ministack.patches import patch

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
