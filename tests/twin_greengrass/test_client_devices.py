"""Which things may discover which core, and AWS's components for them, as boto3 sees both."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from config.edge_server import DEFAULT_VERSIONS
from config.public_components import AUTH, BRIDGE, NUCLEUS, PUBLIC_COMPONENTS
from tests.twin_greengrass.started_cloud import Cloud
from twin.cloud.greengrass.recipe import Version, VersionRange


@pytest.fixture
def core(cloud: Cloud) -> str:
    return thing(cloud, "core")


def thing(cloud: Cloud, kind: str) -> str:
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    cloud.client("iot").create_thing(thingName=name)
    return name


def entries(*names: str) -> list[dict[str, str]]:
    return [{"thingName": name} for name in names]


def associated(greengrass: Any, core: str, size: int = 100) -> list[str]:
    pages = greengrass.get_paginator("list_client_devices_associated_with_core_device").paginate(
        coreDeviceThingName=core, PaginationConfig={"PageSize": size}
    )
    return [each["thingName"] for page in pages for each in page.get("associatedClientDevices", [])]


def test_things_are_associated_in_pages_again_and_no_more(cloud: Cloud, core: str) -> None:
    greengrass, things = cloud.client("greengrassv2"), sorted(thing(cloud, "camera") for _ in range(5))
    call = {"coreDeviceThingName": core, "entries": entries(*things)}

    first = greengrass.batch_associate_client_device_with_core_device(**call)
    since = greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core)
    again = greengrass.batch_associate_client_device_with_core_device(**call)

    assert first["errorEntries"] == again["errorEntries"] == []
    unchanged = greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core)
    assert unchanged["associatedClientDevices"] == since["associatedClientDevices"]
    assert associated(greengrass, core, size=2) == things
    for _ in range(2):
        away = {"coreDeviceThingName": core, "entries": entries(*things[:4])}
        assert greengrass.batch_disassociate_client_device_from_core_device(**away)["errorEntries"] == []
    assert associated(greengrass, core) == things[4:]


def test_what_is_no_thing_is_told_and_the_rest_is_associated(cloud: Cloud, core: str) -> None:
    greengrass, camera = cloud.client("greengrassv2"), thing(cloud, "camera")

    answer = greengrass.batch_associate_client_device_with_core_device(
        coreDeviceThingName=core, entries=entries("not-there", camera)
    )

    assert [(each["thingName"], each["code"]) for each in answer["errorEntries"]] == [
        ("not-there", "ResourceNotFoundException")
    ]
    assert associated(greengrass, core) == [camera]


def test_a_malformed_call_is_refused(cloud: Cloud, core: str) -> None:
    greengrass = cloud.client("greengrassv2")
    call = greengrass.batch_associate_client_device_with_core_device

    for wrong in (entries(*(f"camera-{number}" for number in range(101))), entries("x" * 129)):
        with pytest.raises(greengrass.exceptions.ValidationException):
            call(coreDeviceThingName=core, entries=wrong)
    with pytest.raises(greengrass.exceptions.ValidationException):
        greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core, nextToken="no token")
    for operation in (
        call,
        greengrass.batch_disassociate_client_device_from_core_device,
        greengrass.list_client_devices_associated_with_core_device,
    ):
        with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
            operation(coreDeviceThingName="not-there")


def test_a_deleted_thing_leaves_nothing_to_the_next_of_its_name(cloud: Cloud, core: str) -> None:
    greengrass, iot, camera = cloud.client("greengrassv2"), cloud.client("iot"), thing(cloud, "camera")
    call = {"coreDeviceThingName": core, "entries": entries(camera)}
    for deleted in (camera, core):
        greengrass.batch_associate_client_device_with_core_device(**call)
        greengrass.update_connectivity_info(
            thingName=core, connectivityInfo=[{"hostAddress": "10.0.0.9", "portNumber": 8883}]
        )
        assert associated(greengrass, core) == [camera]

        iot.delete_thing(thingName=deleted)
        iot.create_thing(thingName=deleted)

        assert associated(greengrass, core) == []
    assert greengrass.get_connectivity_info(thingName=core)["connectivityInfo"] == []


def test_public_components_are_listed_and_described(cloud: Cloud) -> None:
    greengrass = cloud.client("greengrassv2")

    listed = {each["componentName"]: each for each in greengrass.list_components(scope="PUBLIC")["components"]}

    assert set(listed) == set(PUBLIC_COMPONENTS)
    auth = listed[AUTH]["latestVersion"]
    assert auth["arn"] == f"arn:aws:greengrass:us-east-1:aws:components:{AUTH}:versions:{auth['componentVersion']}"
    assert greengrass.describe_component(arn=auth["arn"])["publisher"] == "AWS"
    recipe = json.loads(greengrass.get_component(arn=auth["arn"])["recipe"])
    assert recipe["ComponentType"] == "aws.greengrass.plugin"
    assert all(not manifest["Artifacts"] for manifest in recipe["Manifests"])
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.delete_component(arn=auth["arn"])


@pytest.mark.parametrize("runtime", ["aws_nucleus_classic", "aws_nucleus_lite"])
def test_the_classic_nucleus_alone_is_offered_them(cloud: Cloud, runtime: str) -> None:
    greengrass = cloud.client("greengrassv2")
    platform = {"attributes": {"os": "linux", "architecture": "amd64", "runtime": runtime}}
    candidates = [
        {"componentName": BRIDGE, "componentVersion": PUBLIC_COMPONENTS[BRIDGE].version},
        {"componentName": AUTH, "versionRequirements": {BRIDGE: ">=2.2.0 <2.6.0"}},
    ]

    def resolve() -> list[str]:
        answer = greengrass.resolve_component_candidates(platform=platform, componentCandidates=candidates)
        return [each["componentName"] for each in answer["resolvedComponentVersions"]]

    if runtime == "aws_nucleus_classic":
        assert resolve() == [BRIDGE, AUTH]
        return
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException, match=re.escape(BRIDGE)):
        resolve()


def test_a_version_that_is_not_in_the_table_and_a_name_of_aws_are_refused(
    cloud: Cloud, group_arn: str, recipe_text: Callable[..., str]
) -> None:
    greengrass = cloud.client("greengrassv2")
    version = PUBLIC_COMPONENTS[AUTH].version

    with pytest.raises(greengrass.exceptions.ValidationException, match=f"must be {version}, .* got 1.0.0"):
        greengrass.create_deployment(targetArn=group_arn, components={AUTH: {"componentVersion": "1.0.0"}})
    with pytest.raises(greengrass.exceptions.ConflictException, match="is AWS's"):
        greengrass.create_component_version(inlineRecipe=recipe_text(AUTH, "9.0.0"))
    made = greengrass.create_deployment(targetArn=group_arn, components={AUTH: {"componentVersion": version}})
    assert greengrass.get_deployment(deploymentId=made["deploymentId"])["components"][AUTH]


def test_every_dependency_of_the_table_is_met_by_the_table() -> None:
    for component in PUBLIC_COMPONENTS.values():
        for name, (versions, _kind) in component.dependencies.items():
            version = DEFAULT_VERSIONS["classic"] if name == NUCLEUS else PUBLIC_COMPONENTS[name].version
            assert VersionRange.parse(versions).allows(Version.parse(version)), (component.name, name)
