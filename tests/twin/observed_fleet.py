"""The Observability stack of the stage `twin` on a running twin, a device of the stage, and a queue that is told."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.synthesis import template
from tests.twin.conftest import Clients, outputs_of, settle, wait_until
from tests.twin_greengrass.device import Session, connected, make_device
from tests.twin_greengrass.started_cloud import Cloud
from twin.state import TwinState

STACK, DEVICE = "observed-fleet", "edgewright-twin-observed"
BUCKET = "edgewright-twin-artifacts-000000000000-us-east-1"
NAMESPACE = "Edgewright/twin"
PERIOD_S = 10


def fast_template(key_arn: str) -> dict[str, Any]:
    """The stack's template, with another key and with alarms that look at ten seconds instead of fifteen minutes."""
    text = json.dumps(template("twin", "Observability"))
    content: dict[str, Any] = json.loads(text, object_hook=lambda node: key_arn if "Fn::ImportValue" in node else node)
    # CDK's own: the version of a bootstrap that this twin has not.
    for section in ("Parameters", "Rules"):
        content.pop(section, None)
    for resource in content["Resources"].values():
        if resource["Type"] == "AWS::CloudWatch::Alarm":
            resource["Properties"] |= {"Period": PERIOD_S, "EvaluationPeriods": 1}
    return content


@dataclass
class ObservedFleet:
    """What the tests use.

    Attributes:
        client: Clients by service.
        session: The device's MQTT session.
        queue: URL of the queue that is told.
        told: What it was told so far.
    """

    client: Clients
    session: Session
    queue: str
    told: list[dict[str, Any]] = field(default_factory=list)

    def publish(self, topic: str, **message: Any) -> None:
        self.session.publish(f"edgewright/twin/{topic}", message)

    def result(self, model: str, **changes: Any) -> str:
        """Publish an answer as the inference component writes it; returns its id."""
        identifier = uuid.uuid4().hex
        message = {
            "id": identifier,
            "request_id": "r1",
            "device": DEVICE,
            "model": {"name": model, "version": "1.0.0"},
            "label": "7",
            "top_k": [{"label": "7", "probability": 0.97}],
            "latency_ms": 3.5,
            "timestamp": "2026-11-22T00:00:00.000Z",
        }
        self.publish(f"{model}/response", **{**message, **changes})
        return identifier

    def error(self, model: str) -> None:
        error = {"code": "InvalidInput", "message": "no JSON"}
        self.publish(f"{model}/response", id=uuid.uuid4().hex, request_id=None, device=DEVICE, error=error)

    def heartbeat(self) -> None:
        self.publish("heartbeat", device=DEVICE, uptime_s=61.5, rss_mb=80.0, models={})

    def deployment(self, status: str, identifier: str, why: str = "FAILED_NO_STATE_CHANGE") -> None:
        details = {"detailedStatus": why, "errorStack": ["S3_ERROR"], "errorTypes": ["AWS_ERROR"]}
        information = {"deploymentId": identifier, "status": status, "statusDetails": details}
        message = {"messageType": "PARTIAL", "thing": DEVICE, "deploymentInformation": information}
        self.session.publish(f"$aws/things/{DEVICE}/greengrassv2/health/json", message)

    def metric(self, name: str, statistic: str, namespace: str = NAMESPACE) -> float | None:
        """A statistic of the last ten minutes, which may lie in two periods: those begin with the hour."""
        points = self.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            StartTime=time.time() - 600,
            EndTime=time.time() + 60,
            Period=3600,
            Statistics=[statistic],
        )["Datapoints"]
        of_all = {"Minimum": min, "Maximum": max}.get(statistic, sum)
        return of_all(point[statistic] for point in points) if points else None

    def states(self, alarms: set[str]) -> set[str]:
        """The states that these alarms are in."""
        found = self.client("cloudwatch").describe_alarms(AlarmNames=sorted(alarms))["MetricAlarms"]
        return {each["StateValue"] for each in found}

    def lines(self, group: str) -> list[dict[str, Any]]:
        """The lines of a log group, parsed."""
        events = self.client("logs").filter_log_events(logGroupName=f"/edgewright/twin/{group}")["events"]
        return [json.loads(event["message"]) for event in events]

    def notifications(self) -> list[dict[str, Any]]:
        """Everything that the topic has told the queue up to now."""
        sqs = self.client("sqs")
        while found := sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                self.told.append(json.loads(json.loads(message["Body"])["Message"]))
                sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return self.told

    def wait_for(self, limit_s: float = 30, **members: Any) -> dict[str, Any]:
        """The first notification with these members, in it or in its detail."""

        def found() -> Any:
            told = ({**each, **each.get("detail", {})} for each in self.notifications())
            return next((each for each in told if members.items() <= each.items()), None)

        return dict(wait_until(found, limit_s))

    def alarms_told(self, state: str) -> set[str]:
        """The alarms that have told that they are in a state now."""
        return {each["AlarmName"] for each in self.notifications() if each.get("NewStateValue") == state}

    def keep(self, doing: Callable[[], Any], until: Callable[[], bool], limit_s: float = 120) -> None:
        """Do something every second until a condition holds.

        An alarm looks at its period only: what happened once is past before a busy machine has looked at it.
        """

        def done() -> bool:
            doing()
            time.sleep(1)
            return until()

        wait_until(done, limit_s)


@contextmanager
def observed_fleet(twin: TwinState, client: Clients, folder: Path) -> Any:
    """Deploy the stack, connect the device, subscribe the queue; all of it is taken away at the end."""
    s3, sqs, cloudformation = client("s3"), client("sqs"), client("cloudformation")
    with ExitStack() as clean:
        key = client("kms").create_key()["KeyMetadata"]
        clean.callback(client("kms").schedule_key_deletion, KeyId=key["KeyId"], PendingWindowInDays=7)
        s3.create_bucket(Bucket=BUCKET)
        clean.callback(_remove_bucket, s3)
        rule = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key["Arn"]}
        s3.put_bucket_encryption(
            Bucket=BUCKET,
            ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": rule}]},
        )
        body = json.dumps(fast_template(key["Arn"]))
        cloudformation.create_stack(StackName=STACK, TemplateBody=body, Capabilities=["CAPABILITY_IAM"])
        clean.callback(lambda: settle(cloudformation, STACK) if _exists(cloudformation) else None)
        clean.callback(cloudformation.delete_stack, StackName=STACK)
        stack = settle(cloudformation, STACK)
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        queue = sqs.create_queue(QueueName="told")["QueueUrl"]
        clean.callback(sqs.delete_queue, QueueUrl=queue)
        arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": _from_topics(arn)})
        client("sns").subscribe(TopicArn=outputs_of(stack)["NotificationTopic"], Protocol="sqs", Endpoint=arn)
        device = make_device(Cloud(twin), folder, thing=DEVICE)
        session = clean.enter_context(connected(device, jobs=False))
        yield ObservedFleet(client, session, queue)


def _from_topics(queue_arn: str) -> str:
    principal = {"Service": "sns.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sqs:SendMessage", "Resource": queue_arn}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _exists(cloudformation: Any) -> bool:
    stacks = cloudformation.list_stacks()["StackSummaries"]
    return any(each["StackName"] == STACK and each["StackStatus"] != "DELETE_COMPLETE" for each in stacks)


def _remove_bucket(s3: Any) -> None:
    for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    s3.delete_bucket(Bucket=BUCKET)
