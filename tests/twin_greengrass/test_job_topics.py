"""Device protocol, Jobs: what a device's deployments look like on MQTT, seen by a plain paho client."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.twin_greengrass.device import QUEUE, Device, connected, make_device
from tests.twin_greengrass.started_cloud import Cloud


def deploy(cloud: Cloud, target: str, **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = cloud.client("greengrassv2").create_deployment(targetArn=target, **more)
    return answer


def test_an_idle_device_is_told_that_there_is_nothing(device: Device) -> None:
    with connected(device) as session:
        answer = session.job("$next", "get", {"jobId": "$next", "thingName": device.thing, "clientToken": "t1"})

        assert answer.topic.endswith("get/accepted")
        assert answer.document == {"clientToken": "t1", "timestamp": answer.document["timestamp"]}


def test_a_deployment_arrives_as_the_job_document_of_the_protocol(
    cloud: Cloud, device: Device, group: str, group_arn: str, component: Callable[..., dict[str, Any]]
) -> None:
    made = component()
    with connected(device) as session:
        session.subscribe(f"$aws/things/{device.thing}/jobs/notify-{QUEUE}")
        update = {"merge": '{"a": {"b": 1}}', "reset": ["/x"]}
        limits = {"memory": 2048, "cpus": 0.5}
        entry = {
            "componentVersion": "1.0.0",
            "configurationUpdate": update,
            "runWith": {"posixUser": "u:g", "systemResourceLimits": limits},
        }
        answer = deploy(cloud, group_arn, deploymentName="d", components={made["componentName"]: entry})
        pending, news = session.next(f"notify-{QUEUE}"), session.next(f"notify-next-{QUEUE}")

    execution = news.document["execution"]
    document = execution.pop("jobDocument")
    created = document.pop("creationTimestamp")
    assert abs(created / 1000 - time.time()) < 60
    assert execution == {
        "jobId": answer["iotJobId"],
        "status": "QUEUED",
        "queuedAt": execution["queuedAt"],
        "lastUpdatedAt": execution["lastUpdatedAt"],
        "versionNumber": 1,
        "executionNumber": 1,
    }
    assert isinstance(execution["queuedAt"], int)
    assert execution["queuedAt"] < 1e10
    assert document == {
        "deploymentId": answer["deploymentId"],
        "deploymentName": "d",
        "configurationArn": f"arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/{group}:1",
        "components": {
            made["componentName"]: {
                "version": "1.0.0",
                "configurationUpdate": {"merge": {"a": {"b": 1}}, "reset": ["/x"]},
                "runWith": {"posixUser": "u:g", "systemResourceLimits": {"linux": {"memory": 2048, "cpu": 0.5}}},
            }
        },
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeout": 60, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 60},
    }
    assert [entry["jobId"] for entry in pending.document["jobs"]["QUEUED"]] == [answer["iotJobId"]]


def test_a_device_works_a_job_off_and_is_notified_late(cloud: Cloud, device: Device, group_arn: str) -> None:
    with connected(device) as session:
        job_id = deploy(cloud, group_arn)["iotJobId"]
        session.next(f"notify-next-{QUEUE}")

        front = session.job("$next", "get", {"includeJobDocument": True, "clientToken": "g"})
        started = session.job(job_id, "update", {"status": "IN_PROGRESS", "clientToken": "a"})
        asked = time.monotonic()
        ended = session.job(job_id, "update", {"status": "SUCCEEDED", "clientToken": "b"})
        news = session.next(f"notify-next-{QUEUE}")

        assert front.document["execution"]["jobId"] == job_id
        assert started.topic.endswith("update/accepted")
        assert started.document == {"clientToken": "a", "timestamp": started.document["timestamp"]}
        assert ended.topic.endswith("update/accepted")
        assert news.document == {"timestamp": news.document["timestamp"]}
        assert news.at - asked >= 0.45  # when the reply was read depends on the machine
        assert session.quiet(0.8)


def test_several_changes_make_one_notification(cloud: Cloud, device: Device, group_arn: str) -> None:
    with connected(device) as session:
        # Nothing is told within half a second of a reply; a busy machine may need longer for all three.
        asked = time.monotonic()
        session.job("$next", "get", {})
        for _ in range(3):
            last = deploy(cloud, group_arn)
        at_once = time.monotonic() - asked < 0.45

        news = session.next(f"notify-next-{QUEUE}")
        while not at_once and news.document["execution"]["jobId"] != last["iotJobId"]:
            news = session.next(f"notify-next-{QUEUE}")

        assert news.document["execution"]["jobId"] == last["iotJobId"]
        assert session.quiet(1.0)


def test_the_queue_without_namespace_stays_apart(cloud: Cloud, device: Device, group_arn: str) -> None:
    with connected(device, jobs=False) as session:
        base = f"$aws/things/{device.thing}/jobs"
        for topic in (f"{base}/notify", f"{base}/notify-next", f"{base}/get/+"):
            session.subscribe(topic)
        deploy(cloud, group_arn)
        mine = session.call(f"{base}/get", {"clientToken": "x"})
        assert (mine.document["queuedJobs"], mine.document["inProgressJobs"]) == ([], [])
        assert session.quiet(1.0)

        iot, arn = cloud.client("iot"), f"arn:aws:iot:us-east-1:000000000000:thing/{device.thing}"
        iot.create_job(jobId=f"plain-{device.thing}", targets=[arn], document="{}")

        assert session.next("/notify").document["jobs"]["QUEUED"][0]["jobId"] == f"plain-{device.thing}"
        assert session.next("/notify-next").document["execution"]["jobId"] == f"plain-{device.thing}"


def test_malformed_updates_are_rejected_with_the_codes_of_the_protocol(
    cloud: Cloud, device: Device, group_arn: str
) -> None:
    with connected(device) as session:
        job_id = deploy(cloud, group_arn)["iotJobId"]

        def code(job: str, document: Any, verb: str = "update") -> str:
            answer = session.job(job, verb, document)
            assert answer.topic.endswith("/rejected"), answer
            return str(answer.document["code"])

        assert code(job_id, b"{not json") == "InvalidJson"
        assert code(job_id, []) == "InvalidJson"
        assert code(job_id, {"status": "NOPE"}) == "InvalidRequest"
        assert code(job_id, {"status": {"a": 1}}) == "InvalidRequest"
        assert code(job_id, {"status": "QUEUED"}) == "InvalidStateTransition"
        assert code("no-such-job", {"status": "IN_PROGRESS"}) == "ResourceNotFound"
        assert code("no-such-job", {}, "get") == "ResourceNotFound"
        assert code(job_id, {"status": "IN_PROGRESS", "expectedVersion": 9}) == "VersionMismatch"
        session.job(job_id, "update", {"status": "FAILED", "statusDetails": {"detailed-deployment-status": "FAILED"}})
        last = session.job(job_id, "update", {"status": "SUCCEEDED", "clientToken": "z"})
        assert last.document["code"] == "InvalidStateTransition"
        assert last.document["clientToken"] == "z"
        assert last.document["executionState"]["status"] == "FAILED"
        assert code(job_id, {}, "get") == "TerminalStateReached"


def test_a_client_cannot_write_the_answers_of_the_service(cloud: Cloud, device: Device, tmp_path: Path) -> None:
    forger = make_device(cloud, tmp_path / "forger")
    with connected(device) as session, connected(forger, jobs=False) as other:
        for topic in (
            f"notify-next-{QUEUE}",
            f"notify-{QUEUE}",
            f"j/{QUEUE}/get/accepted",
            f"j/{QUEUE}/update/rejected",
        ):
            other.client.publish(f"$aws/things/{device.thing}/jobs/{topic}", "{}", qos=0)

        assert session.quiet(1.0)


def test_a_thing_that_joins_the_group_later_gets_the_deployment(
    cloud: Cloud, group: str, group_arn: str, tmp_path: Path
) -> None:
    job_id = deploy(cloud, group_arn)["iotJobId"]
    late = make_device(cloud, tmp_path / "late")
    with connected(late) as session:
        assert "execution" not in session.job("$next", "get", {}).document

        cloud.client("iot").add_thing_to_thing_group(thingGroupName=group, thingName=late.thing)

        assert session.next(f"notify-next-{QUEUE}").document["execution"]["jobId"] == job_id


def test_a_new_revision_takes_the_place_of_the_old_one(cloud: Cloud, device: Device, group_arn: str) -> None:
    greengrass, iot = cloud.client("greengrassv2"), cloud.client("iot")
    with connected(device) as session:
        first = deploy(cloud, group_arn)
        session.next(f"notify-next-{QUEUE}")
        session.job(first["iotJobId"], "update", {"status": "IN_PROGRESS"})

        second = deploy(cloud, group_arn)

        assert session.next(f"notify-next-{QUEUE}").document["execution"]["jobId"] == second["iotJobId"]
        late = session.job(first["iotJobId"], "update", {"status": "SUCCEEDED"})
        assert late.topic.endswith("rejected")
    assert iot.describe_job(jobId=first["iotJobId"])["job"]["status"] == "CANCELED"
    assert greengrass.get_deployment(deploymentId=first["deploymentId"])["deploymentStatus"] == "INACTIVE"
    latest = greengrass.list_deployments(targetArn=group_arn)["deployments"]
    assert [(entry["deploymentId"], entry["revisionId"]) for entry in latest] == [(second["deploymentId"], "2")]
    assert len(greengrass.list_deployments(targetArn=group_arn, historyFilter="ALL")["deployments"]) == 2


def test_a_thing_is_a_target_too(cloud: Cloud, device: Device) -> None:
    arn = f"arn:aws:iot:us-east-1:000000000000:thing/{device.thing}"
    with connected(device) as session:
        answer = deploy(cloud, arn)
        execution = session.next(f"notify-next-{QUEUE}").document["execution"]
        assert execution["jobDocument"]["configurationArn"].endswith(f":configuration:thing/{device.thing}:1")
        session.job(answer["iotJobId"], "update", {"status": "SUCCEEDED"})

    job = cloud.client("iot").describe_job(jobId=answer["iotJobId"])["job"]
    assert (job["targetSelection"], job["status"], job["namespaceId"]) == ("SNAPSHOT", "COMPLETED", "aws-gg-deployment")
    deployment = cloud.client("greengrassv2").get_deployment(deploymentId=answer["deploymentId"])
    assert deployment["deploymentStatus"] == "COMPLETED"
