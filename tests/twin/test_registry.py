"""AWS IoT's registry on the twin: what it refuses and how it filters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.twin.conftest import Clients

DOCUMENT = json.dumps({"Version": "2012-10-17", "Statement": []})


@pytest.fixture
def iot(client: Clients) -> Iterator[Any]:
    """The registry, without what the test made afterwards."""
    made = client("iot")
    yield made
    for name in ("far-b", "near-a-child", "near-a", "near-b"):
        made.delete_thing_group(thingGroupName=name)


def test_a_policy_has_at_most_five_versions(client: Clients) -> None:
    iot = client("iot")
    iot.create_policy(policyName="five", policyDocument=DOCUMENT)
    for _ in range(4):
        iot.create_policy_version(policyName="five", policyDocument=DOCUMENT)

    with pytest.raises(ClientError, match="VersionsLimitExceededException"):
        iot.create_policy_version(policyName="five", policyDocument=DOCUMENT, setAsDefault=True)
    assert len(iot.list_policy_versions(policyName="five")["policyVersions"]) == 5
    iot.delete_policy_version(policyName="five", policyVersionId="2")
    assert iot.create_policy_version(policyName="five", policyDocument=DOCUMENT)["policyVersionId"] == "6"

    for version in iot.list_policy_versions(policyName="five")["policyVersions"]:
        if not version["isDefaultVersion"]:
            iot.delete_policy_version(policyName="five", policyVersionId=version["versionId"])
    iot.delete_policy(policyName="five")


def test_what_does_not_fit_is_refused(client: Clients) -> None:
    iot = client("iot")
    statement = {"Effect": "Allow", "Action": "iot:Connect", "Resource": ""}
    empty = len(json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":")))

    def of(size: int) -> str:
        # White space does not count.
        return json.dumps(
            {"Version": "2012-10-17", "Statement": [{**statement, "Resource": "r" * (size - empty)}]}, indent=4
        )

    iot.create_policy(policyName="long", policyDocument=of(2048))
    for call, name in ((iot.create_policy, "longer"), (iot.create_policy_version, "long")):
        with pytest.raises(ClientError, match=r"MalformedPolicyException.*at most 2048 characters .* got 2049"):
            call(policyName=name, policyDocument=of(2049))
    iot.delete_policy(policyName="long")

    four = {"attributes": dict.fromkeys("abcd", "1")}
    with pytest.raises(ClientError, match=r"InvalidRequestException.*at most 3 attributes, got 4"):
        iot.create_thing(thingName="plain", attributePayload=four)
    iot.create_thing_type(thingTypeName="typed")
    iot.create_thing(thingName="of-a-type", thingTypeName="typed", attributePayload=four)
    iot.delete_thing(thingName="of-a-type")
    iot.deprecate_thing_type(thingTypeName="typed")
    iot.delete_thing_type(thingTypeName="typed")


def test_thing_groups_are_filtered_by_prefix_and_parent(iot: Any) -> None:
    for name in ("near-a", "near-b", "far-b"):
        iot.create_thing_group(thingGroupName=name)
    iot.create_thing_group(thingGroupName="near-a-child", parentGroupName="near-a")

    def listed(**filters: Any) -> set[str]:
        pages = iot.get_paginator("list_thing_groups").paginate(**filters)
        found = {group["groupName"] for page in pages for group in page["thingGroups"]}
        return found & {"near-a", "near-b", "far-b", "near-a-child"}

    assert listed() == {"near-a", "near-b", "far-b", "near-a-child"}
    assert listed(namePrefixFilter="near-") == {"near-a", "near-b", "near-a-child"}
    assert listed(namePrefixFilter="near-", recursive=False) == {"near-a", "near-b"}
    assert listed(parentGroup="near-a") == {"near-a-child"}
    assert listed(parentGroup="near-b") == set()
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        listed(parentGroup="nowhere")


def test_a_wrong_expected_version_is_a_conflict_and_changes_nothing(client: Clients) -> None:
    iot = client("iot")
    iot.create_thing(thingName="versioned")
    iot.create_thing_group(thingGroupName="versioned")
    properties = {"thingGroupDescription": "new"}

    for call, arguments in (
        (iot.update_thing, {"thingName": "versioned", "attributePayload": {"attributes": {"a": "1"}}}),
        (iot.update_thing_group, {"thingGroupName": "versioned", "thingGroupProperties": properties}),
    ):
        with pytest.raises(ClientError, match="VersionConflictException"):
            call(**arguments, expectedVersion=7)
    assert iot.describe_thing(thingName="versioned")["attributes"] == {}
    iot.update_thing(thingName="versioned", attributePayload={"attributes": {"a": "1"}}, expectedVersion=1)
    iot.update_thing_group(thingGroupName="versioned", thingGroupProperties=properties, expectedVersion=1)

    assert iot.describe_thing(thingName="versioned")["attributes"] == {"a": "1"}
    iot.delete_thing(thingName="versioned")
    iot.delete_thing_group(thingGroupName="versioned")
