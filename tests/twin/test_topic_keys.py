"""Whether a service may encrypt for a topic, by the real policy of the stage's key; no cloud is started."""

import json
from typing import Any

import pytest
from ministack.core.responses import get_account_id
from ministack.services import kms, sns

from tests.synthesis import resources
from twin.cloud import topics

STACK = "edgewright-twin-observability"
TOPIC = f"arn:aws:sns:us-east-1:000000000000:{STACK}-Notifications-ABC"
EVENTS, ALARMS = "events.amazonaws.com", "cloudwatch.amazonaws.com"


def policy() -> dict[str, Any]:
    """The policy of the key in the template, with what CloudFormation fills in."""
    (key,) = resources("twin", "Observability", "AWS::KMS::Key")
    values = {
        "AWS::StackName": STACK,
        "AWS::AccountId": get_account_id(),
        "AWS::Partition": "aws",
        "AWS::Region": "us-east-1",
    }

    def filled_in(node: dict[str, Any]) -> Any:
        if "Ref" in node:
            return values[node["Ref"]]
        return "".join(node["Fn::Join"][1]) if "Fn::Join" in node else node

    found: dict[str, Any] = json.loads(json.dumps(key["Properties"]["KeyPolicy"]), object_hook=filled_in)
    return found


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The policy that the topic's key has, to be changed."""
    document = policy()
    monkeypatch.setattr(sns, "_topic_by_arn_any_scope", lambda arn: {"attributes": {"KmsMasterKeyId": "key"}})
    monkeypatch.setattr(kms, "key_policy_for_arn", lambda key: (json.dumps(document), "000000000000"))
    return document


def statement(key: dict[str, Any], service: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [each for each in key["Statement"] if each["Principal"].get("Service") == service]
    return found[0]


@pytest.mark.parametrize("service", [EVENTS, ALARMS])
def test_the_stages_rule_and_alarms_may_use_the_key(key: dict[str, Any], service: str) -> None:
    assert topics.refused(TOPIC, service) == ""


@pytest.mark.parametrize("service", [EVENTS, ALARMS])
def test_another_stacks_topic_is_none_of_eventbridges_business(key: dict[str, Any], service: str) -> None:
    refusal = topics.refused(TOPIC.replace(STACK, "another"), service)

    assert bool(refusal) == (service == EVENTS)


def test_eventbridge_does_not_say_for_whom_it_asks(key: dict[str, Any]) -> None:
    statement(key, EVENTS)["Condition"] = statement(key, ALARMS)["Condition"]

    assert topics.refused(TOPIC, EVENTS) == (
        f"{EVENTS} is not allowed kms:GenerateDataKey by the policy of key, which encrypts {TOPIC}"
    )
    assert topics.refused(TOPIC, ALARMS) == ""


def test_a_service_that_the_policy_does_not_name_is_refused(key: dict[str, Any]) -> None:
    assert "not allowed kms:GenerateDataKey" in topics.refused(TOPIC, "iot.amazonaws.com")


def test_a_key_without_decryption_is_refused(key: dict[str, Any]) -> None:
    statement(key, EVENTS)["Action"] = ["kms:GenerateDataKey*"]

    assert "not allowed kms:Decrypt" in topics.refused(TOPIC, EVENTS)


def test_aws_own_key_is_for_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {"KmsMasterKeyId": "alias/aws/sns"}
    monkeypatch.setattr(sns, "_topic_by_arn_any_scope", lambda arn: {"attributes": attributes})

    assert "alias/aws/sns" in topics.refused(TOPIC, EVENTS)
    attributes.clear()
    assert topics.refused(TOPIC, EVENTS) == ""
