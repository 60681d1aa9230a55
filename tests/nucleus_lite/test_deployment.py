"""A deployment's packet as estimated at synth, and as the twin's cloud sends it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nucleus_lite.configuration import memory_bytes
from nucleus_lite.deployment import PACKET_BYTES, job_document, packet_bytes

ENTRY: dict[str, Any] = {"version": "1.0.0", "configurationUpdate": {"merge": {"a": {"b": "x"}}, "reset": ["/a"]}}


@pytest.mark.parametrize("filled", [0, 3000])
def test_the_estimate_is_little_above_a_packet_of_a_short_thing(filled: int) -> None:
    entry = {**ENTRY, "configurationUpdate": {"merge": {"text": "x" * filled}}}
    execution = {"jobId": "0" * 36, "status": "QUEUED", "queuedAt": 1795000000, "lastUpdatedAt": 1795000000}
    execution |= {"versionNumber": 1, "executionNumber": 1}
    document = {
        "deploymentId": "0" * 36,
        "deploymentName": "plant",
        "configurationArn": "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/plant:1",
        "creationTimestamp": 1795000000000,
        "components": {"com.a": entry},
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"timeout": 60, "action": "NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 60},
    }
    message = {"timestamp": 1795000000, "execution": {**execution, "jobDocument": document}}
    topic = "$aws/things/press-1/jobs/notify-next-namespace-aws-gg-deployment"
    seen = len(topic) + 8 + len(json.dumps(message, separators=(",", ":")))

    about = packet_bytes(job_document("plant", "arn:aws:iot:us-east-1:000000000000:thinggroup/plant", {"com.a": entry}))

    assert seen < about < seen + 350


def test_what_is_merged_is_added_up() -> None:
    def size(count: int) -> int:
        merge = {f"label{number}": "x" * 900 for number in range(count)}
        return packet_bytes(job_document("", "", {"com.a": {"configurationUpdate": {"merge": merge}}}))

    assert size(4) < PACKET_BYTES.value < size(5)
    assert size(5) - size(4) == 900 + len('"label4":"",')


def test_half_a_character_has_a_size() -> None:
    """JSON may hold one, whatever comes of it."""
    entry = json.loads('{"configurationUpdate": {"merge": "\\ud83d"}}')

    assert memory_bytes("\ud83d") == 3
    assert packet_bytes(job_document("", "", {"com.a": entry})) == packet_bytes(
        job_document("", "", {"com.a": {"configurationUpdate": {"merge": "xxx"}}})
    )
