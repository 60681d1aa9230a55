"""What a metric costs, and what is known of it, after many values: in this process, without a twin."""

from __future__ import annotations

import asyncio
import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.core import persistence
from ministack.core.responses import request_scope
from ministack.services import cloudwatch

from twin.cloud import cloudwatch as twin_cloudwatch
from twin.cloud import snapshots
from twin.cloud.cloudwatch import Series, evaluate_all, statistics
from twin.cloud.ministack.patches import LEDGER

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _patched() -> Iterator[None]:
    undo = LEDGER.apply("twin.cloud.cloudwatch")
    with request_scope("000000000000", "us-east-1"):
        yield
    undo()
    for store in (cloudwatch._metrics, cloudwatch._alarms, cloudwatch._alarm_history):
        store.clear()


def put(value: float, at: float = NOW, name: str = "M") -> None:
    datum = {"MetricName": name, "Value": value, "Timestamp": at, "Unit": "Count"}
    cloudwatch._put_metric_data({}, {"Namespace": "N", "MetricData": [datum]}, False, True)


def series(name: str = "M") -> Series:
    found = cloudwatch._metrics[("N", name, "")]
    assert isinstance(found, Series)
    return found


def alarm(**changes: Any) -> dict[str, Any]:
    given = {
        "AlarmName": "A",
        "Namespace": "N",
        "MetricName": "M",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 3,
        "Threshold": 5.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "StateValue": "OK",
    }
    return {**given, **changes}


def test_a_value_put_looks_at_no_alarm_and_the_clock_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("twin.cloud.cloudwatch.evaluate", lambda found: looked.append(found["AlarmName"]))
    cloudwatch._alarms["A"] = alarm()

    put(1)
    assert looked == []

    asyncio.run(evaluate_all())
    assert looked == ["A"]


def test_the_room_of_a_metric_is_bounded_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_cloudwatch, "SECONDS", 20)
    monkeypatch.setattr(twin_cloudwatch, "MINUTES", 10)

    for number in range(20_000):
        put(number * 0.0137, at=NOW + number / 3)

    assert len(series()._seconds) <= 20
    assert len(series()._minutes) <= 10
    # Values of three digits: at most 900 in each power of ten, of which these have four.
    assert len(series()) <= (20 + 10) * twin_cloudwatch.VALUES * 30


def test_metrics_are_bounded_and_the_silent_one_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_cloudwatch, "SERIES", 3)
    for number in range(4):
        put(1, at=NOW + (100 if number == 0 else number), name=f"M{number}")

    assert {name for _, name, _ in cloudwatch._metrics} == {"M0", "M2", "M3"}


def test_an_alarm_that_comes_and_goes_is_remembered_by_its_latest_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_cloudwatch, "HISTORY", 5)
    for number in range(20):
        cloudwatch._record_history("A", "OK", "ALARM", f"reason {number}")

    assert ["reason 15" in each["HistoryData"] for each in cloudwatch._history_entries()] == [True] + [False] * 4


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 300)), min_size=1, max_size=120))
def test_sums_and_counts_are_exact_and_values_right_to_a_half_of_a_hundredth(
    values: list[tuple[float, int]],
) -> None:
    kept = Series()
    for value, age in values:
        kept.append({"Timestamp": NOW - age, "Value": value, "Unit": "None", "Dimensions": {}})

    stats, true = cloudwatch._calc_stats(list(kept)), [value for value, _ in values]
    assert stats["SampleCount"] == len(true)
    assert math.isclose(stats["Sum"], sum(true), rel_tol=1e-9, abs_tol=1e-9)
    assert math.isclose(stats["Maximum"], max(true), rel_tol=0.006, abs_tol=1e-9)
    assert math.isclose(stats["Minimum"], min(true), rel_tol=0.006, abs_tol=1e-9)


def test_what_has_gone_into_minutes_is_seen_to_the_minute_by_an_alarm_that_looks_back_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(twin_cloudwatch, "SECONDS", 10)
    for second in range(180):
        put(1, at=NOW - 179 + second)

    assert sum(value or 0 for value in statistics(alarm(EvaluationPeriods=4), NOW)) == 180
    assert None not in statistics(alarm(), NOW)


def test_a_set_of_statistics_keeps_its_ends_its_count_and_its_sum() -> None:
    given_set = {"SampleCount": 10, "Sum": 100, "Minimum": 1, "Maximum": 50}
    datum = {"MetricName": "M", "Timestamp": NOW, "StatisticValues": given_set}
    cloudwatch._put_metric_data({}, {"Namespace": "N", "MetricData": [datum]}, False, True)

    found = cloudwatch._calc_stats(list(series()))

    assert {name: found[name] for name in given_set} == given_set


def test_metrics_survive_being_written_down_also_those_of_an_earlier_release() -> None:
    for number in range(100):
        put(number, at=NOW + number // 50)
    point = {"Timestamp": NOW, "Value": 7.0, "Unit": "None", "Dimensions": {}}
    before = cloudwatch._calc_stats(list(series()))

    written = json.loads(
        json.dumps(cloudwatch.get_state(), default=persistence._json_default),
        object_hook=persistence._json_object_hook,
    )
    written["metrics"][("N", "Old", "")] = [point]
    cloudwatch._metrics.clear()
    cloudwatch.load_persisted_state(written)

    assert cloudwatch._calc_stats(list(series())) == before
    assert cloudwatch._calc_stats(list(series("Old")))["Sum"] == 7


def test_a_state_that_is_read_without_a_copy_has_metrics_as_their_copy_would() -> None:
    series = Series()
    series.append({"Value": 2.0, "Timestamp": 60.0, "Unit": "None", "Dimensions": []})

    text = json.loads(snapshots._as_text("cloudwatch", {"metric": series}))["payload"]["metric"]

    assert text == json.loads(json.dumps(copy.deepcopy(series)))
    assert len(Series.read(text)) == 1


def test_what_is_being_written_down_does_not_change_meanwhile() -> None:
    put(1)
    written = copy.deepcopy(series())
    as_it_was = json.dumps(written)

    for _ in range(100):
        put(1)
        put(2)

    assert json.dumps(written) == as_it_was
