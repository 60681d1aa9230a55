"""S3 refuses the captures of a deployed twin: by a policy of IAM (403), then by S3 itself (503)."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from benchmarks import refusing_s3
from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, DeployedTwin
from benchmarks.twin_fault_kills import ask
from benchmarks.waiting import wait_for

PREDICTIONS = 200
TELL_LIMIT_S = 60.0


@contextmanager
def denied(twin: DeployedTwin, bucket: str) -> Iterator[None]:
    """Deny the devices' role what it needs to write captures, while in the block."""
    iam, iot = twin.deploy.client("iam"), twin.deploy.client("iot")
    arn = iot.describe_role_alias(roleAlias=NAMES.role_alias)["roleAliasDescription"]["roleArn"]
    policy = {"RoleName": arn.rpartition("/")[2], "PolicyName": "fault"}
    statement = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/captures/*"}
    iam.put_role_policy(**policy, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    try:
        yield
    finally:
        iam.delete_role_policy(**policy)


@contextmanager
def unavailable(twin: DeployedTwin) -> Iterator[None]:
    """Let S3 answer captures with 503 while in the block."""
    refusing_s3.switch(twin.home, 503)
    try:
        yield
    finally:
        refusing_s3.switch(twin.home, None)


def wait_until_told(heartbeats: SimpleQueue[bytes], status: int) -> None:
    """Wait for a heartbeat that tells the refusal.

    Raises:
        queue.Empty: None within 60 s.
    """
    told = ""
    while f"refused with {status}" not in told:
        told = json.loads(heartbeats.get(timeout=TELL_LIMIT_S))["captures"].get("problem", "")


def captured(twin: DeployedTwin, bucket: str, prefix: str) -> list[str]:
    """Request ids with a prefix among the records in S3, each as often as it is there."""
    s3, found = twin.deploy.client("s3"), []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"captures/{NAMES.edge_server}/"):
        for entry in page.get("Contents", []):
            body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            found += [str(json.loads(line)["request_id"]) for line in body.splitlines()]
    return [name for name in found if name.startswith(prefix)]


def s3_refuses(twin: DeployedTwin, run: str = "s3") -> dict[str, Any]:
    """Predictions are answered meanwhile; every capture comes later, once."""
    bucket = NAMES.artifact_bucket(twin.state.account, twin.state.region)
    unanswered, early = 0, 0
    with (
        twin.operator() as operator,
        Answers.of(operator) as answers,
        operator.listen(NAMES.heartbeat_topic) as beats,
    ):
        before = twin.rss_mb()
        for status, refusal in ((403, denied(twin, bucket)), (503, unavailable(twin))):
            with refusal:
                names = [f"{run}-{status}-{number:03}" for number in range(PREDICTIONS)]
                for name in names:
                    ask(operator, name)
                    time.sleep(0.02)
                unanswered += len(answers.all_of(names, 30))
                wait_until_told(beats, status)
                early += len(captured(twin, bucket, f"{run}-{status}"))
        wait_for(lambda: len(set(captured(twin, bucket, f"{run}-"))) >= 2 * PREDICTIONS, "the captures in S3", 300)
        wait_for(lambda: not list((component_folder(twin) / "captures").glob("*.json")), "an empty folder")
        found, after = captured(twin, bucket, f"{run}-"), twin.rss_mb()
    return {
        "predictions": 2 * PREDICTIONS, "unanswered meanwhile": unanswered, "captures in S3 meanwhile": early,
        "captures in S3 later": len(set(found)), "twice": len(found) - len(set(found)),
        "refusals told by heartbeats": [403, 503], "rss_mb": [before, after],
        "holds": not unanswered and not early and len(set(found)) == 2 * PREDICTIONS == len(found)
        and not twin.grew(before, after),
    }  # fmt: skip


def component_folder(twin: DeployedTwin) -> Any:
    """The inference component's work folder."""
    return twin.root / "work" / NAMES.inference_component
