"""A deploy that waits for a candidate's decision: accepted, refused, not decided in time, and brought back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge_handlers.deployment_health import DeploymentHealthError, is_complete, on_event
from edge_handlers.promotion import Rules
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_rollout import TARGET, FakeRollout
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.test_deployment_health import ID, WAIT, healthy
from tests.handlers.test_deployment_health_changes import brought_back

BUCKET, INFERENCE = "edgewright-dev-artifacts", "edgewright.dev.Inference"
RULES = json.dumps(vars(Rules(memory_mb=100)))
NEW: dict[str, Any] = {
    "Candidates": {"digits": "1.0.2", "iris": "1.0.1"},
    "Rules": RULES,
    "Bucket": BUCKET,
    "DecisionSeconds": "600",
}
OLD: dict[str, Any] = {"DeploymentId": "former", "Candidates": {"digits": "1.0.1", "iris": "1.0.1"}}


@pytest.fixture
def ring(rollout: FakeRollout, s3: FakeS3, serve: Callable[..., None]) -> FakeRollout:
    """One healthy device that has the deployment `new`, whose runtime component carries the settings."""
    serve(greengrassv2=rollout, iot=rollout, s3=s3)
    settings = {
        INFERENCE: {"models": {"digits": {"topK": 3, "approvedVersion": "none"}}, "signingKey": "k"},
        "revision": "0",
    }
    for name in ("former", "new"):
        rollout.deploy(name, TARGET)
        rollout.deployments[name]["components"] = {
            INFERENCE: {"componentVersion": "1.0.3"},
            "edgewright.dev.Runtime": {
                "componentVersion": "1.0.0",
                "configurationUpdate": {"merge": json.dumps({"settings": settings}), "reset": ["/settings"]},
            },
        }
    rollout.device("one", TARGET, "SUCCEEDED")
    return rollout


def changed(**changes: Any) -> dict[str, Any]:
    return event.update("deployment_health", ID, old={**NEW, **OLD}, **{**NEW, **changes})


def look(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return is_complete({**event.poll(request, on_event(request, Context())), **changes}, Context())


def tell(s3: FakeS3, device: str = "one", **changes: Any) -> None:
    """A heartbeat as the rules engine stores it."""
    sketch: dict[str, Any] = {"model": "digits", "version": "1.0.2", "inputs": 400, "agreed": 400, "labelled": 0}
    sketch |= {"right": 0, "current_right": 0, "ratios": {"0": 400}, "shifts": {}, "memory_mb": 9, "differed": []}
    content = json.dumps({"device": device, "candidate": sketch | changes}).encode()
    key = f"promotions/digits/{device}.json"
    s3.put(BUCKET, key, content)
    # Each look begins the deployment anew.
    s3.buckets[BUCKET][key][-1].written += timedelta(minutes=1)


def settings_of(deployment: dict[str, Any]) -> dict[str, Any]:
    merge = json.loads(deployment["components"]["edgewright.dev.Runtime"]["configurationUpdate"]["merge"])
    settings: dict[str, Any] = merge["settings"]
    return settings


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: event.create("deployment_health", **NEW),
        lambda: changed(Candidates=OLD["Candidates"]),
        lambda: event.update("deployment_health", ID, old={"DeploymentId": "former"}, **NEW),
    ],
    ids=["first deploy", "unchanged model", "promotion is new"],
)
def test_where_nothing_is_to_decide_the_ring_is_approved_for_those_who_were_away_before(
    ring: FakeRollout, s3: FakeS3, request_of: Callable[[], dict[str, Any]]
) -> None:
    request = request_of()
    ring.device("one", TARGET, "IN_PROGRESS")
    assert look(request) == WAIT
    ring.device("one", TARGET, "SUCCEEDED")

    assert look(request) == healthy(1, 1)

    assert s3.calls == []
    models = settings_of(ring.deployments[brought_back(ring)])[INFERENCE]["models"]
    wanted = request["ResourceProperties"]["Candidates"]
    assert {name: each["approvedVersion"] for name, each in models.items()} == wanted
    # Asked again after the approval, whose answer may have been lost.
    assert look(request) == healthy(0, 0)
    assert len(ring.called("create_deployment")) == 1


def test_a_candidate_is_waited_for_and_then_approved_by_a_deployment_of_the_same_content(
    ring: FakeRollout, s3: FakeS3
) -> None:
    request = changed()

    assert look(request) == WAIT
    tell(s3, inputs=10, agreed=10, ratios={"0": 10})
    assert look(request) == WAIT
    tell(s3)
    assert look(request) == healthy(1, 1)

    made = ring.deployments[brought_back(ring)]
    assert made["targetArn"] == TARGET
    assert made["components"][INFERENCE] == {"componentVersion": "1.0.3"}
    settings, before = settings_of(made), settings_of(ring.deployments["new"])
    assert settings[INFERENCE]["models"] == {
        "digits": {"topK": 3, "approvedVersion": "1.0.2"},
        # Not decided on: a device that missed its approval has it beside its former one otherwise, for good.
        "iris": {"approvedVersion": "1.0.1"},
    }
    assert settings[INFERENCE]["signingKey"] == "k"
    assert settings["revision"] != before["revision"]
    assert list(settings)[-1] == "revision"
    assert look(request) == healthy(0, 0), "asked again after the approval"
    assert len(ring.called("create_deployment")) == 1


def test_a_refused_candidate_is_told_with_the_inputs_that_differed_most(ring: FakeRollout, s3: FakeS3) -> None:
    differed = [{"id": "5f2a", "current": "7", "candidate": "1", "by": 0.99}]
    tell(s3, agreed=300, differed=differed)

    with pytest.raises(DeploymentHealthError) as caught:
        look(changed())

    assert str(caught.value) == (
        "digits 1.0.2 is not taken by ring all: agreement 0.750 on 400 inputs, must be at least 0.95: missed; share "
        "within 1.5 times the current model's time 1.000 of 400 inputs, must be half: reached; memory "
        "9 MB, at most 100; differed most on one/5f2a (7 → 1)"
    )
    assert "create_deployment" not in [name for name, _ in ring.calls]


def test_what_is_not_decided_in_time_is_refused(ring: FakeRollout, s3: FakeS3) -> None:
    request = changed()
    polled = event.poll(request, on_event(request, Context()))

    assert is_complete({**polled, "WaitUntil": polled["WaitUntil"] - 1800 + 60}, Context()) == WAIT
    with pytest.raises(DeploymentHealthError, match=r"agreement unknown on 0 inputs, must be at least 0.95: not dec"):
        is_complete({**polled, "WaitUntil": polled["WaitUntil"] - 1800 - 60}, Context())


def test_a_device_that_joins_while_a_candidate_is_decided_on_has_the_decisions_time(
    ring: FakeRollout, s3: FakeS3
) -> None:
    request = changed()
    polled = event.poll(request, on_event(request, Context()))
    polled["WaitUntil"] -= 1200 + 60
    assert is_complete(polled, Context()) == WAIT

    ring.device("two", TARGET, None)

    assert is_complete(polled, Context()) == WAIT
    with pytest.raises(DeploymentHealthError, match=r"within 1800 s, 1 are; waited for two \(not reached yet\)"):
        is_complete({**polled, "WaitUntil": polled["WaitUntil"] - 600}, Context())


def test_a_device_that_is_away_takes_no_part_where_the_stage_says_so(ring: FakeRollout, s3: FakeS3) -> None:
    ring.offered = datetime.now(UTC) - timedelta(minutes=10)
    ring.device("two", TARGET, "QUEUED")
    tell(s3)

    assert look(changed()) == WAIT
    assert look(changed(AwaySeconds="300")) == healthy(1, 2)


@pytest.mark.parametrize(("call", "code"), [("get_object", "SlowDown"), ("create_deployment", "ThrottlingException")])
def test_throttling_costs_a_look_at_the_candidates_and_no_deploy(
    ring: FakeRollout, s3: FakeS3, call: str, code: str
) -> None:
    tell(s3)
    fake = s3 if call == "get_object" else ring
    fake.refuse(call, code)

    assert look(changed()) == WAIT
    assert look(changed()) == healthy(1, 1)


def test_several_devices_are_added_up_and_what_is_none_or_old_does_not_count(ring: FakeRollout, s3: FakeS3) -> None:
    for name in ("two", "three", "four", "five"):
        ring.device(name, TARGET, "SUCCEEDED")
    tell(s3, "one", inputs=40, agreed=40, ratios={"0": 40})
    tell(s3, "two", version="1.0.1")  # of another attempt
    tell(s3, "three", inputs="many")
    s3.put(BUCKET, "promotions/digits/four.json", b"no json")
    tell(s3, "five")
    s3.buckets[BUCKET]["promotions/digits/five.json"][-1].written = datetime.now(UTC) - timedelta(hours=2)

    assert look(changed()) == WAIT

    tell(s3, "two", inputs=40, agreed=40, ratios={"0": 40})
    assert look(changed()) == healthy(5, 5)


def test_a_candidate_that_takes_too_much_memory_is_refused_though_it_was_never_run(
    ring: FakeRollout, s3: FakeS3
) -> None:
    tell(s3, inputs=0, agreed=0, ratios={}, memory_mb=150)

    with pytest.raises(DeploymentHealthError, match="memory 150 MB, at most 100"):
        look(changed())


def test_a_ring_without_devices_has_nobody_to_ask(rollout: FakeRollout, s3: FakeS3, serve: Callable[..., None]) -> None:
    serve(greengrassv2=rollout, iot=rollout, s3=s3)

    assert look(changed()) == healthy(0, 0)


def test_devices_must_be_healthy_before_anything_is_decided(ring: FakeRollout, s3: FakeS3) -> None:
    tell(s3)
    ring.device("one", TARGET, "FAILED")

    with pytest.raises(DeploymentHealthError, match="one FAILED"):
        look(changed())


def test_a_rollback_approves_the_former_version_and_decides_nothing(ring: FakeRollout, s3: FakeS3) -> None:
    request = event.update("deployment_health", ID, old=NEW, **{**NEW, **OLD})
    ring.deployments["former"]["creationTimestamp"] = -1

    polled = event.poll(request, on_event(request, Context()))
    made = brought_back(ring)
    ring.device("one", TARGET, "SUCCEEDED", of=made)

    assert is_complete(polled, Context()) == healthy(1, 1)
    models = settings_of(ring.deployments[made])[INFERENCE]["models"]
    assert models == {"digits": {"topK": 3, "approvedVersion": "1.0.1"}, "iris": {"approvedVersion": "1.0.1"}}
    assert s3.calls == []


def test_a_rollback_to_a_deployment_without_settings_of_models_brings_it_back_as_it_was(ring: FakeRollout) -> None:
    former = ring.deployments["former"]
    former["creationTimestamp"], former["components"] = -1, {INFERENCE: {"componentVersion": "1.0.2"}}

    on_event(event.update("deployment_health", ID, old=NEW, **{**NEW, **OLD}), Context())

    assert ring.deployments[brought_back(ring)]["components"] == former["components"]


def test_a_rollback_that_finds_nothing_to_bring_back_decides_nothing(ring: FakeRollout, s3: FakeS3) -> None:
    ring.deploy("other", TARGET)

    assert look(changed()) == healthy(0, 0)
    assert s3.calls == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"Candidates": "digits"}, "Candidates must be a mapping, got str"),
        ({"Rules": "no json"}, "Rules must be a JSON object"),
        ({"Rules": json.dumps({**json.loads(RULES), "inputs": 10})}, "inputs must be at least 816"),
        ({"DecisionSeconds": "-1"}, "DecisionSeconds must be a whole number of at least 0"),
    ],
)
def test_properties_that_break_a_rule_are_refused(ring: FakeRollout, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        on_event(event.create("deployment_health", **{**NEW, **changes}), Context())


def test_the_wait_is_bounded_by_both_times(ring: FakeRollout) -> None:
    answer = on_event(changed(), Context())

    assert answer["Candidates"] == {"digits": "1.0.2"}
    assert math.isfinite(answer["WaitUntil"])
