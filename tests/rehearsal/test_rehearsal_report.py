"""What a rehearsal says, and where a rollout is cancelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tools.cloud_assembly import Target
from tools.rehearsal_report import ABORTED, EMPTY, THROUGH, UNCHANGED, Behind, Rehearsal, RingResult
from tools.rehearsed_rollout import Rollout, _abort_text

RING = RingResult("all", "plant", THROUGH, 40, notified=40, succeeded=39, minutes=4.5, behind=())
RESULT = Rehearsal("plant", "main", 0, "2026-11-30T00:00:00+00:00", {"lite": 40}, (RING,))


def rollout(statuses: dict[str, int], **criteria: Any) -> Rollout:
    """One with so many devices of each status, and one criterion."""
    each = {"FailureType": "FAILED", "Action": "CANCEL", "ThresholdPercentage": 10, "MinNumberOfExecutedThings": 20}
    job = {"IotJobConfiguration": {"AbortConfig": {"CriteriaList": [{**each, **criteria}]}}}
    executions = {f"{status}-{number}": status for status, count in statuses.items() for number in range(count)}
    return Rollout(Target("plant", {}, {}, job), executions=executions)


def test_says_how_far_a_rollout_is_from_its_abort() -> None:
    assert _abort_text(rollout({"SUCCEEDED": 38, "FAILED": 2, "QUEUED": 5}), 45) == (
        "2 of 40 FAILED (5.0 %); the limit is 10 % of at least 20"
    )


def test_says_where_it_was_cancelled_and_who_keeps_what_he_has() -> None:
    cancelled = replace(rollout({"SUCCEEDED": 17, "FAILED": 3, "CANCELED": 10}), canceled=True)

    assert _abort_text(cancelled, 80) == (
        "cancelled after 20 of 80 devices, 60 keep what they have: 3 of 20 FAILED (15.0 %); the limit is 10 % of at "
        "least 20"
    )


@pytest.mark.parametrize(("kind", "share"), [("ALL", 20), ("TIMED_OUT", 10), ("REJECTED", 10)])
def test_names_the_kind_of_failure_that_cancelled_it(kind: str, share: int) -> None:
    statuses = {"SUCCEEDED": 16, "TIMED_OUT": 2, "REJECTED": 2}
    cancelled = replace(rollout(statuses, FailureType=kind, ThresholdPercentage=share), canceled=True)

    assert f" {kind} ({share}.0 %)" in _abort_text(cancelled, 20)


def test_a_rollout_goes_through_with_devices_behind_and_names_ten_of_a_reason() -> None:
    behind = tuple(Behind(f"line-{number:02}", "lite", "away") for number in range(12))
    result = replace(RESULT, rings=(replace(RING, behind=behind),))

    assert result.headline == "the rollout goes through; 12 devices stay behind"
    assert "12 behind: away: line-00 (lite)," in result.text()
    assert "line-09 (lite) and 2 more" in result.text()
    assert "[!CAUTION]" not in result.markdown()
    assert result.as_dict()["goes_through"] is True
    assert len(result.as_dict()["rings"][0]["behind"]) == 12


def test_the_first_ring_that_stops_is_the_headline() -> None:
    stopped = replace(RING, ring="early", verdict=ABORTED, abort="cancelled after 20 of 40 devices")
    result = replace(RESULT, rings=(RING, stopped))

    assert result.headline == (
        "the rollout would stop at ring early, which is aborted: cancelled after 20 of 40 devices"
    )
    assert result.markdown().splitlines()[2] == "> [!CAUTION]"
    assert "| early | 40 | 39 | 4.5 | 0.0 MB | 0 | 0 of 0 lost | is aborted |" in result.markdown()


def test_a_comment_shows_what_a_device_says_and_no_html() -> None:
    reason = "FAILED: the archive must hold <name>/1/model.onnx <!-- and"
    ring = replace(RING, verdict=ABORTED, abort=f"cancelled: {reason}", behind=(Behind("line-01", "lite", reason),))

    text = replace(RESULT, rings=(ring,)).markdown()

    assert text.count("must hold &lt;name&gt;/1/model.onnx &lt;!-- and") == 3
    assert "<name>" not in text
    assert "<!--" not in text


def test_one_device_stays_behind_and_without_devices_nothing_is_new() -> None:
    one = replace(RING, behind=(Behind("line-01", "lite", "away"),))
    empty, unchanged = (replace(RING, verdict=verdict, devices=0) for verdict in (EMPTY, UNCHANGED))

    assert replace(RESULT, rings=(one,)).headline == "the rollout goes through; 1 device stays behind"
    assert replace(RESULT, rings=(empty, unchanged)).headline == "a deploy brings the devices nothing new"
