"""The Greengrass API as boto3 sees it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.twin_greengrass.started_cloud import Cloud
from twin.cloud.aws.shapes import mistakes


def test_a_component_version_is_described_and_never_changes(
    cloud: Cloud, component: Callable[..., dict[str, Any]], recipe_text: Callable[..., str]
) -> None:
    greengrass, made = cloud.client("greengrassv2"), component(ComponentPublisher="us", ComponentDescription="what")

    described = greengrass.describe_component(arn=made["arn"])

    assert made["status"]["componentState"] == "DEPLOYABLE"
    assert (described["publisher"], described["description"]) == ("us", "what")
    assert described["platforms"] == [{"attributes": {"os": "linux", "runtime": "*"}}]
    with pytest.raises(greengrass.exceptions.ConflictException) as error:
        greengrass.create_component_version(inlineRecipe=recipe_text(made["componentName"], "1.0.0"))
    assert error.value.response["resourceId"] == made["arn"]


def test_a_repeated_request_is_answered_alike(cloud: Cloud, recipe_text: Callable[..., str]) -> None:
    greengrass, text = cloud.client("greengrassv2"), recipe_text(f"com.{uuid.uuid4().hex}", "1.0.0")

    first, second = (greengrass.create_component_version(inlineRecipe=text, clientToken="same") for _ in range(2))

    assert first["creationTimestamp"] == second["creationTimestamp"]


def test_recipes_come_as_json_and_yaml(cloud: Cloud, component: Callable[..., dict[str, Any]]) -> None:
    greengrass, arn = cloud.client("greengrassv2"), component()["arn"]

    as_json = json.loads(greengrass.get_component(arn=arn)["recipe"])
    as_yaml = yaml.safe_load(greengrass.get_component(arn=arn, recipeOutputFormat="YAML")["recipe"])

    assert as_json == as_yaml
    assert as_json["ComponentType"] == "aws.greengrass.generic"


def test_the_newest_version_of_each_component_is_listed_in_pages(
    cloud: Cloud, component: Callable[..., dict[str, Any]]
) -> None:
    greengrass, name = cloud.client("greengrassv2"), component("1.9.0")["componentName"]
    component("1.10.0", name=name)

    pages = list(greengrass.get_paginator("list_components").paginate(PaginationConfig={"PageSize": 1}))

    found = [each for page in pages for each in page["components"] if each["componentName"] == name]
    assert all(len(page["components"]) <= 1 for page in pages)
    assert [each["latestVersion"]["componentVersion"] for each in found] == ["1.10.0"]
    versions = greengrass.list_component_versions(arn=found[0]["arn"])["componentVersions"]
    assert [each["componentVersion"] for each in versions] == ["1.10.0", "1.9.0"]


def test_a_deleted_version_is_gone(cloud: Cloud, component: Callable[..., dict[str, Any]]) -> None:
    greengrass, arn = cloud.client("greengrassv2"), component()["arn"]

    greengrass.delete_component(arn=arn)

    for call in (greengrass.delete_component, greengrass.describe_component, greengrass.get_component):
        with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
            call(arn=arn)


def test_every_mistake_of_a_recipe_is_told(cloud: Cloud, recipe_text: Callable[..., str]) -> None:
    greengrass = cloud.client("greengrassv2")
    manifest = {"Artifacts": [{"Uri": "s3://artifacts/nothing-here"}]}

    with pytest.raises(greengrass.exceptions.ValidationException) as malformed:
        greengrass.create_component_version(inlineRecipe=recipe_text("a name", "one"))
    with pytest.raises(greengrass.exceptions.ValidationException) as missing:
        greengrass.create_component_version(inlineRecipe=recipe_text("a.name", "1.0.0", Manifests=[manifest]))

    assert {each["name"] for each in malformed.value.response["fields"]} == {"ComponentName", "ComponentVersion"}
    assert "s3://artifacts/nothing-here" in str(missing.value)


def test_a_malformed_deployment_is_refused(cloud: Cloud, group_arn: str) -> None:
    greengrass = cloud.client("greengrassv2")

    def refused(**request: Any) -> str:
        with pytest.raises(greengrass.exceptions.ValidationException) as error:
            greengrass.create_deployment(**{"targetArn": group_arn, **request})
        return str(error.value)

    def with_merge(text: str) -> dict[str, Any]:
        return {"c": {"componentVersion": "1.0.0", "configurationUpdate": {"merge": text}}}

    assert "components.c.configurationUpdate.merge" in refused(components=with_merge("[1]"))
    assert "components.c.configurationUpdate.merge" in refused(components=with_merge("{not json"))
    assert "components.c.componentVersion" in refused(components={"c": {"componentVersion": ">=1.0.0"}})
    assert "components..." in refused(components={"..": {"componentVersion": "1.0.0"}})
    assert "31744 bytes" in refused(components=with_merge(json.dumps({"a": "x" * 40_000})))
    assert "ROLLBACK, DO_NOTHING" in refused(deploymentPolicies={"failureHandlingPolicy": "PRAY"})
    assert "targetArn" in refused(targetArn="arn:aws:s3:::bucket")
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.create_deployment(targetArn=group_arn + "-not-there")
    assert greengrass.list_deployments(targetArn=group_arn)["deployments"] == []


def test_a_deployment_is_cancelled_then_deleted_with_its_job(cloud: Cloud, group_arn: str) -> None:
    greengrass, iot = cloud.client("greengrassv2"), cloud.client("iot")
    made = greengrass.create_deployment(targetArn=group_arn)
    deployment_id = made["deploymentId"]
    with pytest.raises(greengrass.exceptions.ConflictException):
        greengrass.delete_deployment(deploymentId=deployment_id)

    greengrass.cancel_deployment(deploymentId=deployment_id)
    assert greengrass.get_deployment(deploymentId=deployment_id)["deploymentStatus"] == "CANCELED"
    with pytest.raises(greengrass.exceptions.ConflictException):
        greengrass.cancel_deployment(deploymentId=deployment_id)
    greengrass.delete_deployment(deploymentId=deployment_id)

    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_deployment(deploymentId=deployment_id)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_job(jobId=made["iotJobId"])


def test_rollout_and_abort_rules_reach_the_job(cloud: Cloud, group_arn: str) -> None:
    rules = {
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 5},
        "abortConfig": {
            "criteriaList": [
                {"failureType": "ALL", "action": "CANCEL", "thresholdPercentage": 50.0, "minNumberOfExecutedThings": 2}
            ]
        },
        "timeoutConfig": {"inProgressTimeoutInMinutes": 7},
    }
    made = cloud.client("greengrassv2").create_deployment(targetArn=group_arn, iotJobConfiguration=rules)

    job = cloud.client("iot").describe_job(jobId=made["iotJobId"])["job"]

    assert {key: job[key] for key in rules} == rules
    assert job["targetSelection"] == "CONTINUOUS"


def test_tags_are_kept_by_arn(cloud: Cloud, component: Callable[..., dict[str, Any]], group_arn: str) -> None:
    greengrass = cloud.client("greengrassv2")
    deployment = greengrass.create_deployment(targetArn=group_arn, tags={"a": "1"})["deploymentId"]
    for arn in (component()["arn"], f"arn:aws:greengrass:us-east-1:000000000000:deployments:{deployment}"):
        greengrass.tag_resource(resourceArn=arn, tags={"b": "2", "c": "3"})
        greengrass.untag_resource(resourceArn=arn, tagKeys=["c"])

        assert greengrass.list_tags_for_resource(resourceArn=arn)["tags"]["b"] == "2"
        assert "c" not in greengrass.list_tags_for_resource(resourceArn=arn)["tags"]


def test_devices_are_given_names_of_aws(cloud: Cloud) -> None:
    iot = cloud.client("iot")
    data = iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    credentials = iot.describe_endpoint(endpointType="iot:CredentialProvider")["endpointAddress"]

    assert data.endswith("-ats.iot.us-east-1.amazonaws.com")
    assert credentials == data.replace("-ats.iot.", ".credentials.iot.")
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.describe_endpoint(endpointType="iot:Jobs")


def test_a_member_is_known_by_the_name_that_it_has_on_the_wire() -> None:
    role = "arn:aws:iam::000000000000:role/Greengrass"

    assert mistakes("greengrassv2", "AssociateServiceRoleToAccount", {"RoleArn": role}) == []
    (missing,) = mistakes("greengrassv2", "AssociateServiceRoleToAccount", {"roleArn": role}, unknown=True)
    assert missing.startswith("Value null at 'roleArn'")
