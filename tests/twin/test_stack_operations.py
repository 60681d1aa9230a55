"""Stack operations that end soon are over when their answer comes; others are answered all the same."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ministack.services import cloudformation

from config.places import NODE_MODULES
from tests.twin.conftest import Clients
from twin.cloud import stack_operations

TEMPLATE = {"Resources": {"Parameter": {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "1"}}}}


@pytest.fixture
def stack(client: Clients) -> Iterator[str]:
    yield "quick"
    client("cloudformation").delete_stack(StackName="quick")


def test_a_quick_stack_is_there_and_gone_at_the_first_look(client: Clients, stack: str) -> None:
    cloudformation_client = client("cloudformation")

    identifier = cloudformation_client.create_stack(StackName=stack, TemplateBody=json.dumps(TEMPLATE))["StackId"]
    (made,) = cloudformation_client.describe_stacks(StackName=stack)["Stacks"]
    cloudformation_client.delete_stack(StackName=identifier)
    (gone,) = cloudformation_client.describe_stacks(StackName=identifier)["Stacks"]

    assert (made["StackStatus"], gone["StackStatus"]) == ("CREATE_COMPLETE", "DELETE_COMPLETE")


def test_a_change_set_is_executed_at_the_first_look(client: Clients, stack: str) -> None:
    cloudformation_client = client("cloudformation")
    names = {"StackName": stack, "ChangeSetName": "changes"}
    cloudformation_client.create_change_set(**names, TemplateBody=json.dumps(TEMPLATE), ChangeSetType="CREATE")

    cloudformation_client.execute_change_set(**names)

    (made,) = cloudformation_client.describe_stacks(StackName=stack)["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"


def test_a_change_set_is_marked_so_that_all_its_changes_are_asked_for_at_once(client: Clients, stack: str) -> None:
    cloudformation_client = client("cloudformation")
    names = {"StackName": stack, "ChangeSetName": "changes"}
    cloudformation_client.create_change_set(**names, TemplateBody=json.dumps(TEMPLATE), ChangeSetType="CREATE")

    described = cloudformation_client.describe_change_set(**names)

    mark, _, _why = described["StatusReason"].partition(" because: ")
    assert [change["ResourceChange"]["LogicalResourceId"] for change in described["Changes"]] == ["Parameter"]
    assert f'"{mark}"' in (NODE_MODULES / "aws-cdk" / "lib" / "index.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "<Status>FAILED</Status><StatusReason></StatusReason>",
        "<Status>CREATE_COMPLETE</Status><StatusReason>Own</StatusReason>",
    ],
)
def test_a_change_set_that_failed_or_says_something_is_not_marked(text: str) -> None:
    assert stack_operations._told_incomplete((200, {}, text)) == (200, {}, text.encode())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("CREATE_IN_PROGRESS", True),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", True),
        ("REVIEW_IN_PROGRESS", False),
        ("CREATE_COMPLETE", False),
    ],
)
def test_knows_what_is_under_way(monkeypatch: pytest.MonkeyPatch, status: str, expected: bool) -> None:
    stacks: dict[str, dict[str, Any]] = {"s": {"StackName": "s", "StackId": "arn:s", "StackStatus": status}}
    monkeypatch.setattr(cloudformation, "_stacks", stacks)

    assert stack_operations.under_way("s") is expected
    assert stack_operations.under_way("arn:s") is expected
    assert not stack_operations.under_way("other")


def test_a_slow_operation_is_answered_after_the_longest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_operations, "HOLD_S", 0.2)
    monkeypatch.setattr(stack_operations, "under_way", lambda _name: True)
    began = time.monotonic()

    asyncio.run(stack_operations._hold("slow"))

    assert time.monotonic() - began >= 0.2
