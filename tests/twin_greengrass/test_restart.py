"""What was there is there after a restart of the cloud, for the API and for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.twin_greengrass.device import connected, make_device
from tests.twin_greengrass.started_cloud import Cloud, started_cloud
from tests.twin_greengrass.test_credentials_and_s3 import make_alias


def test_a_device_goes_on_with_its_deployment_after_a_restart(tmp_path: Path, recipe_text: Callable[..., str]) -> None:
    with started_cloud(tmp_path / "twin") as cloud:
        arn = cloud.client("iot").create_thing_group(thingGroupName="g")["thingGroupArn"]
        device = make_device(cloud, tmp_path / "device", group="g")
        alias = make_alias(cloud)
        greengrass = cloud.client("greengrassv2")
        recipe = recipe_text("com.example.App", "1.0.0", Manifests=[{}])
        component = greengrass.create_component_version(inlineRecipe=recipe)["arn"]
        made = greengrass.create_deployment(targetArn=arn)
        authority = cloud.authority()

    with started_cloud(tmp_path / "twin") as cloud:
        device.cloud = Cloud(cloud.state)
        assert cloud.authority() == authority
        with connected(device) as session:
            execution = session.job("$next", "get", {}).document["execution"]
            assert execution["jobDocument"]["deploymentId"] == made["deploymentId"]
            session.job(made["iotJobId"], "update", {"status": "SUCCEEDED"})
        assert device.thing_groups().status_code == 200
        assert device.credentials(alias).status_code == 200
        greengrass = cloud.client("greengrassv2")
        assert greengrass.describe_component(arn=component)["componentName"] == "com.example.App"
        greengrass.create_deployment(targetArn=arn)
        (latest,) = greengrass.list_deployments(targetArn=arn)["deployments"]
        assert latest["revisionId"] == "2"
