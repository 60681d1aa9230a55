"""What devices say becomes objects, metrics, log lines and notifications; every alarm can be made to go off."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.synthesis import resources
from tests.twin.conftest import Clients, wait_until
from tests.twin.observed_fleet import BUCKET, DEVICE, NAMESPACE, PERIOD_S, ObservedFleet, observed_fleet
from twin.state import TwinState


@pytest.fixture(scope="module")
def fleet(twin: TwinState, client: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedFleet]:
    with observed_fleet(twin, client, tmp_path_factory.mktemp("device")) as observed:
        yield observed


def keys(fleet: ObservedFleet, prefix: str) -> list[str]:
    found = fleet.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for entry in found.get("Contents", [])]


def test_a_result_becomes_an_object_by_model_day_and_device(fleet: ObservedFleet) -> None:
    before = datetime.now(UTC)
    identifier = fleet.result("digits")

    def made() -> list[str]:
        return [key for key in keys(fleet, "results/model=digits/") if identifier in key]

    (key,) = wait_until(made)
    days = {moment.strftime("%Y-%m-%d") for moment in (before, datetime.now(UTC))}  # two of them at midnight
    assert key in {f"results/model=digits/day={day}/{DEVICE}/{identifier}.json" for day in days}
    body = fleet.client("s3").get_object(Bucket=BUCKET, Key=key)
    document = json.loads(body["Body"].read())
    assert (document["id"], document["label"], document["device"]) == (identifier, "7", DEVICE)
    assert body["ServerSideEncryption"] == "aws:kms"


def test_a_result_that_arrives_twice_is_one_object(fleet: ObservedFleet) -> None:
    fleet.result("iris", id="the-same")
    fleet.result("iris", id="the-same")

    wait_until(lambda: (fleet.metric("iris.LatencyMs", "SampleCount") or 0) >= 2)
    assert len([key for key in keys(fleet, "results/model=iris/") if key.endswith("/the-same.json")]) == 1


def test_a_result_becomes_latency_confidence_and_a_success(fleet: ObservedFleet) -> None:
    before = fleet.metric("iris.Failed", "SampleCount") or 0

    fleet.result("iris", latency_ms=12.25, top_k=[{"label": "setosa", "probability": 0.875}])

    wait_until(lambda: (fleet.metric("iris.Failed", "SampleCount") or 0) > before)
    wait_until(lambda: fleet.metric("iris.Confidence", "Minimum") == 0.875)
    assert fleet.metric("iris.LatencyMs", "Maximum") == 12.25
    assert fleet.metric("iris.Failed", "Maximum") == 0


def test_objects_have_the_confidence_of_the_surest_and_no_object_has_none(fleet: ObservedFleet) -> None:
    surest = {"label": "7", "probability": 0.75, "box": [0, 0, 1, 1]}
    fleet.result("scenes", top_k=None, objects=[], size=[96, 96])
    fleet.result("scenes", top_k=None, objects=[surest, {**surest, "probability": 0.5}], size=[96, 96])

    wait_until(lambda: fleet.metric("scenes.Confidence", "SampleCount") == 1)
    assert fleet.metric("scenes.Confidence", "Maximum") == 0.75
    wait_until(lambda: fleet.metric("scenes.LatencyMs", "SampleCount") == 2)


def test_a_result_of_tensors_has_no_confidence(fleet: ObservedFleet) -> None:
    fleet.result("tensors", top_k=None, outputs={"y": [1.0]})

    wait_until(lambda: fleet.metric("tensors.LatencyMs", "SampleCount") == 1)
    fleet.result("tensors-after")
    wait_until(lambda: fleet.metric("tensors-after.Confidence", "SampleCount") == 1)
    assert fleet.metric("tensors.Confidence", "SampleCount") is None


def test_the_results_of_files_become_objects(fleet: ObservedFleet) -> None:
    results = [{"Label": "class 1", "Score": 0.5}]

    fleet.session.publish("gg/sageMakerEdgeManager/image-classification", {"inference-results": results})

    (key,) = wait_until(lambda: keys(fleet, "results/model=image-classification/"))
    document = json.loads(fleet.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read())
    assert document == {"inference-results": results}


def test_an_error_becomes_a_log_line_and_a_failure(fleet: ObservedFleet) -> None:
    fleet.error("other")

    (line,) = wait_until(lambda: [each for each in fleet.lines("errors") if each["model"] == "other"])
    assert (line["error"]["code"], line["client"]) == ("InvalidInput", DEVICE)
    wait_until(lambda: fleet.metric("other.Failed", "Sum") == 1)


def test_a_heartbeat_counts_for_the_fleet_and_for_its_device(fleet: ObservedFleet) -> None:
    fleet.heartbeat()

    wait_until(lambda: (fleet.metric("Heartbeats", "Sum") or 0) >= 1)
    wait_until(lambda: fleet.metric(DEVICE, "Maximum", f"{NAMESPACE}/devices") == 61.5)


@pytest.mark.parametrize(
    "message", [[], "text", {}, {"latency_ms": None}, {"error": "text"}, {"latency_ms": 1}, {"uptime_s": "?"}]
)
def test_a_message_of_another_form_does_nothing(fleet: ObservedFleet, message: Any) -> None:
    failures = len(fleet.lines("rule-failures"))

    for topic in ("odd/response", "heartbeat"):
        fleet.session.publish(f"edgewright/twin/{topic}", message)
    fleet.result("after-odd")

    wait_until(lambda: fleet.metric("after-odd.LatencyMs", "SampleCount"))
    assert fleet.metric("odd.Failed", "SampleCount") is None
    assert len(fleet.lines("rule-failures")) == failures


def test_a_rule_that_fails_is_named_with_its_action_and_the_message(fleet: ObservedFleet) -> None:
    fleet.result("huge", latency_ms="1e999")

    (line,) = wait_until(lambda: [each for each in fleet.lines("rule-failures") if "/huge/" in each["topic"]])
    assert line["ruleName"] == "edgewright_twin_Results"
    (failure,) = line["failures"]
    assert failure["failedAction"] == "CloudwatchMetricAction"
    assert failure["errorMessage"].endswith(
        "rule edgewright_twin_Results: cloudwatchMetric: "
        "cloudwatchMetric.metricValue must be a finite number, got '1e999'"
    )
    assert line["base64OriginalPayload"]


#: EventBridge puts texts into messages as they stand.
WHY = 'no version of "gate" fits\n\\'


def test_a_deployment_that_fails_on_a_device_is_told(fleet: ObservedFleet) -> None:
    identifier = "3d0c1c3e-0000-4000-8000-000000000001"

    fleet.deployment("FAILED", identifier, why=WHY)

    told = fleet.wait_for(deploymentId=identifier)
    assert told["AlarmName"] == "edgewright-twin-deployment-failed"
    assert told["devices"] == [f"arn:aws:greengrass:us-east-1:000000000000:coreDevices:{DEVICE}"]
    assert (told["coreDeviceExecutionStatus"], told["reason"]) == ("FAILED", WHY)


def test_a_deployment_that_succeeds_is_not_told(fleet: ObservedFleet) -> None:
    fleet.deployment("SUCCEEDED", "succeeded")
    fleet.deployment("FAILED", "failed-after")

    fleet.wait_for(deploymentId="failed-after")
    assert "succeeded" not in [each.get("detail", {}).get("deploymentId") for each in fleet.notifications()]


@pytest.mark.long  # an alarm looks at ten seconds: going off and ending take half a minute
@pytest.mark.timeout(600)
def test_every_alarm_goes_off_and_ends(fleet: ObservedFleet) -> None:
    alarms = {
        each["Properties"]["AlarmName"]: each["Properties"]
        for each in resources("twin", "Observability", "AWS::CloudWatch::Alarm")
    }
    models = {name.split(".")[0] for each in alarms.values() if "." in (name := each["MetricName"])}
    assert models == {"digits", "iris", "image-classification", "digit-detector"}

    def misbehave() -> None:
        for model in models:
            fleet.error(model)
            fleet.result(model, latency_ms=9000, top_k=[{"label": "?", "probability": 0.01}])
            # Without the uptime it is no sign of life: silence must go off, too.
            fleet.publish("heartbeat", drift={"model": model, "inputs": 200, "highest": 4.2, "psi": {"p": 4.2}})
        fleet.result("huge", latency_ms="1e999")

    # An alarm tells a change only: what earlier tests did must have left every period, looked at or not yet.
    quiet = time.monotonic() + PERIOD_S + 2
    fleet.keep(fleet.heartbeat, until=lambda: time.monotonic() > quiet and fleet.states(set(alarms)) == {"OK"})
    fleet.notifications()
    fleet.told.clear()
    fleet.keep(misbehave, until=lambda: fleet.alarms_told("ALARM") == set(alarms))
    for name in alarms:
        told = fleet.wait_for(AlarmName=name, NewStateValue="ALARM")
        assert told["AlarmDescription"] == alarms[name]["AlarmDescription"]
    fleet.keep(fleet.heartbeat, until=lambda: fleet.alarms_told("OK") == set(alarms))
    assert fleet.states(set(alarms)) == {"OK"}


def test_the_topic_takes_messages_over_tls_only(fleet: ObservedFleet) -> None:
    sns = fleet.client("sns")
    (arn,) = [each["TopicArn"] for each in sns.list_topics()["Topics"] if "observed-fleet" in each["TopicArn"]]

    attributes = sns.get_topic_attributes(TopicArn=arn)["Attributes"]

    deny = [each for each in json.loads(attributes["Policy"])["Statement"] if each["Effect"] == "Deny"]
    assert deny[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
