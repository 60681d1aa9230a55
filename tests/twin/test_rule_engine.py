"""The rules' SQL and alarms of the twin, apart from a running one: every branch of what MiniStack lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ministack.core.responses import request_scope
from ministack.services import cloudwatch, cloudwatch_logs, eventbridge

from twin.cloud import cloudwatch as twins_cloudwatch
from twin.cloud.cloudwatch import Series
from twin.cloud.greengrass import core_devices
from twin.cloud.rules_engine import UNDEFINED, RuleMessage, get, parse_time

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _account() -> Iterator[None]:
    with request_scope("000000000000", "us-east-1"):
        yield
    cloudwatch._metrics.clear()
    cloudwatch_logs._metric_filters.clear()


@pytest.mark.parametrize(
    ("collection", "key", "value"),
    [
        ([{"a": 1}], 0, {"a": 1}),
        ({"a": 1}, "a", 1),
        ("abc", 1, "b"),
        ([1], 1, UNDEFINED),
        ([1], -1, UNDEFINED),
        ([1], True, UNDEFINED),
        ([1], "0", UNDEFINED),
        ({"a": 1}, "b", UNDEFINED),
        ({"a": 1}, 0, UNDEFINED),
        (None, 0, UNDEFINED),
        (5, 0, UNDEFINED),
        (UNDEFINED, 0, UNDEFINED),
    ],
)
def test_get_takes_one_value(collection: Any, key: Any, value: Any) -> None:
    assert get(collection, key) == value


@pytest.mark.parametrize(
    ("pattern", "milliseconds", "text"),
    [
        ("yyyy-MM-dd", 0, "1970-01-01"),
        ("yyyy/MM/dd HH:mm:ss 100%", 1_800_000_000_123, "2027/01/15 08:00:00 100%"),
        ("EEE", 0, UNDEFINED),
        ("yyyyMd", 0, UNDEFINED),
        (5, 0, UNDEFINED),
        ("yyyy", "now", UNDEFINED),
        ("yyyy", 1e30, UNDEFINED),
    ],
)
def test_parse_time_writes_utc(pattern: Any, milliseconds: Any, text: Any) -> None:
    assert parse_time(pattern, milliseconds) == text


def test_a_template_is_filled_from_the_original_message() -> None:
    message = RuleMessage("edgewright/twin/digits/response", b'{"id":"a","latency_ms":3.5,"deep":{"x":[1]}}', "board-1")

    assert message.fill("key", "${topic(3)}/${clientid()}/${id}/${deep.x}") == "digits/board-1/a/[1]"
    assert message.fill("value", "${latency_ms}") == "3.5"


@pytest.mark.parametrize("payload", [b'{"id":null}', b"{}", b"[]", b"\xff", b"text"])
def test_a_template_without_a_value_is_named(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"s3\.key: \$\{id\} has no value in the message on a/b"):
        RuleMessage("a/b", payload, None).fill("s3.key", "results/${id}.json")


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"s3\.key must be a string, got None"):
        RuleMessage("a/b", b"{}", None).fill("s3.key", None)


def alarm(**changes: Any) -> dict[str, Any]:
    values = {
        "AlarmName": "an-alarm",
        "Namespace": "N",
        "MetricName": "M",
        "Statistic": "Sum",
        "Period": 60,
        "EvaluationPeriods": 3,
        "Threshold": 5.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "StateValue": "OK",
        "ActionsEnabled": True,
    }
    return {**values, **changes}


@pytest.mark.parametrize(
    ("values", "missing", "state"),
    [
        ([6, 6, 6], "missing", "ALARM"),
        ([6, 6, 5], "missing", "OK"),
        ([None, None, None], "missing", "INSUFFICIENT_DATA"),
        ([None, None, None], "breaching", "ALARM"),
        ([None, None, None], "notBreaching", "OK"),
        ([6, None, 6], "breaching", "ALARM"),
        ([6, None, 6], "notBreaching", "OK"),
        ([1, None, None], "breaching", "OK"),
    ],
)
def test_missing_data_is_taken_as_the_alarm_says(values: list[float | None], missing: str, state: str) -> None:
    assert twins_cloudwatch.state(alarm(TreatMissingData=missing), values) == state


def test_without_any_data_an_alarm_that_ignores_it_stays_as_it_is() -> None:
    for before in ("OK", "ALARM", "INSUFFICIENT_DATA"):
        settings = alarm(TreatMissingData="ignore", StateValue=before)
        assert twins_cloudwatch.state(settings, [None, None, None]) == before


def test_m_out_of_n_periods_are_enough() -> None:
    assert twins_cloudwatch.state(alarm(DatapointsToAlarm=2), [6, 5, 6]) == "ALARM"
    assert twins_cloudwatch.state(alarm(DatapointsToAlarm=2), [6, 5, 5]) == "OK"


@pytest.mark.parametrize(
    ("comparison", "breaching"),
    [
        ("GreaterThanThreshold", {6}),
        ("GreaterThanOrEqualToThreshold", {5, 6}),
        ("LessThanThreshold", {4}),
        ("LessThanOrEqualToThreshold", {4, 5}),
    ],
)
def test_a_value_is_compared_as_the_alarm_says(comparison: str, breaching: set[float]) -> None:
    settings = alarm(ComparisonOperator=comparison, EvaluationPeriods=1)

    found = {value for value in (4, 5, 6) if twins_cloudwatch.state(settings, [value]) == "ALARM"}

    assert found == breaching


def test_a_comparison_of_anomaly_detection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ComparisonOperator must be one of .*, got 'LessThanLowerThreshold'"):
        twins_cloudwatch.state(alarm(ComparisonOperator="LessThanLowerThreshold"), [1])


def test_statistics_are_those_of_each_period_and_of_the_alarms_dimensions_only() -> None:
    for age, value, device in ((1, 1, "a"), (59, 2, "a"), (61, 4, "a"), (1, 100, "b"), (1, 1000, None)):
        point = {"Timestamp": NOW - age, "Value": float(value), "Unit": "None"}
        key = ("N", "M", f"device={device}" if device else "")
        series = cloudwatch._metrics.setdefault(key, Series())
        series.append({**point, "Dimensions": {"device": device} if device else {}})
    dimensions = [{"Name": "device", "Value": "a"}]

    assert twins_cloudwatch.statistics(alarm(Dimensions=dimensions), NOW) == [3, 4, None]
    assert twins_cloudwatch.statistics(alarm(), NOW) == [1000, None, None]
    percentile = alarm(Dimensions=dimensions, Statistic=None, ExtendedStatistic="p50", EvaluationPeriods=1)
    assert twins_cloudwatch.statistics(percentile, NOW) == [1.5]


def test_an_alarm_tells_a_change_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(cloudwatch, "_dispatch_alarm_actions", lambda _a, old, new, _r: told.append((old, new)))
    settings = alarm(TreatMissingData="breaching")

    twins_cloudwatch.evaluate(settings)
    twins_cloudwatch.evaluate(settings)

    assert told == [("OK", "ALARM")]
    assert settings["StateReason"] == "GreaterThanThreshold 5: no data, no data, no data in periods of 60 s"


def put_filter(pattern: str) -> None:
    transformation = {"metricNamespace": "N", "metricName": "Lines", "metricValue": "1"}
    cloudwatch_logs._metric_filters[("group", "filter")] = {
        "filterName": "filter",
        "logGroupName": "group",
        "filterPattern": pattern,
        "metricTransformations": [transformation],
    }


def test_a_metric_filter_without_a_pattern_counts_the_lines_of_its_group() -> None:
    put_filter("")

    twins_cloudwatch.apply_metric_filters({"logGroupName": "group", "logEvents": [{"message": "a"}, {"message": "b"}]})
    twins_cloudwatch.apply_metric_filters({"logGroupName": "other", "logEvents": [{"message": "c"}]})

    assert len(cloudwatch._metrics[("N", "Lines", "")]) == 2


def test_a_metric_filter_with_a_pattern_is_not_applied_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    put_filter("{ $.a = 1 }")

    twins_cloudwatch.apply_metric_filters({"logGroupName": "group", "logEvents": [{"message": "a"}]})

    assert ("N", "Lines", "") not in cloudwatch._metrics
    assert "metric filter filter of group: the twin applies an empty filterPattern only" in caplog.text


@pytest.mark.parametrize(
    ("information", "before", "told"),
    [
        ({"deploymentId": "d", "status": "FAILED"}, None, 1),
        ({"deploymentId": "d", "status": "FAILED"}, "IN_PROGRESS", 1),
        ({"deploymentId": "d", "status": "FAILED"}, "FAILED", 0),
        ({"deploymentId": "d", "status": "IN_PROGRESS"}, None, 0),
        ({}, None, 0),
        ({"deploymentId": "d", "status": "REJECTED", "statusDetails": "text"}, None, 1),
    ],
)
def test_a_deployment_that_has_newly_ended_is_an_event(
    monkeypatch: pytest.MonkeyPatch, information: dict[str, Any], before: str | None, told: int
) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(eventbridge, "_put_events", lambda data, **_named: events.extend(data["Entries"]))

    core_devices.tell("board-1", {"deploymentInformation": information}, before)

    assert len(events) == told
    for event in events:
        detail = json.loads(event["Detail"])
        assert (detail["deploymentId"], detail["coreDeviceExecutionStatus"]) == ("d", information["status"])
        assert event["Resources"] == ["arn:aws:greengrass:us-east-1:000000000000:coreDevices:board-1"]
