"""Reasonable apps that are not ours break no rule; nothing in them follows this project's names or constructs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Aws, CfnCondition, CfnParameter, Fn, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_greengrassv2 as greengrass
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_sns as sns

from edge_rules.edge_checks import find
from edge_rules.fleet_view import FleetView

AUTH, BROKER, BRIDGE = (f"aws.greengrass.clientdevices.{name}" for name in ("Auth", "mqtt.Moquette", "mqtt.Bridge"))
_Deployment = greengrass.CfnDeployment
_ROLLOUT: dict[str, Any] = {
    "deployment_policies": _Deployment.DeploymentPoliciesProperty(
        failure_handling_policy="ROLLBACK",
        component_update_policy=_Deployment.DeploymentComponentUpdatePolicyProperty(
            action="NOTIFY_COMPONENTS", timeout_in_seconds=30
        ),
    ),
    "iot_job_configuration": _Deployment.DeploymentIoTJobConfigurationProperty(
        job_executions_rollout_config=_Deployment.IoTJobExecutionsRolloutConfigProperty(maximum_per_minute=10),
        abort_config=_Deployment.IoTJobAbortConfigProperty(
            criteria_list=[
                _Deployment.IoTJobAbortCriteriaProperty(
                    action="CANCEL", failure_type=kind, min_number_of_executed_things=5, threshold_percentage=20
                )
                for kind in ("FAILED", "TIMED_OUT")
            ]
        ),
    ),
}


def component(
    stack: Stack, construct_id: str, name: str, *, runtime: str, asset: s3_assets.Asset, **configuration: Any
) -> greengrass.CfnComponentVersion:
    """A component version in the way of the developer guide's examples."""
    folder = Path(asset.asset_path).name
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": "2.1.0",
        "ComponentConfiguration": {"DefaultConfiguration": configuration},
        "Manifests": [
            {
                "Platform": {"os": "linux", "runtime": runtime},
                "Lifecycle": {"run": {"Script": f'python3 -u "{{artifacts:decompressedPath}}/{folder}/main.py"'}},
                "Artifacts": [{"Uri": asset.s3_object_url, "Unarchive": "ZIP"}],
            }
        ],
    }
    made = greengrass.CfnComponentVersion(stack, construct_id, inline_recipe=stack.to_json_string(recipe))
    made.apply_removal_policy(RemovalPolicy.RETAIN)
    return made


def deploy(
    stack: Stack, construct_id: str, group: iot.CfnThingGroup, components: dict[str, str], **merged: Any
) -> greengrass.CfnDeployment:
    return _Deployment(
        stack,
        construct_id,
        target_arn=group.attr_arn,
        components={
            name: _Deployment.ComponentDeploymentSpecificationProperty(
                component_version=version,
                configuration_update=_Deployment.ComponentConfigurationUpdateProperty(merge=merged[name])
                if name in merged
                else None,
            )
            for name, version in components.items()
        },
        **_ROLLOUT,
    )


def bottling_line(app: App, code: Path) -> None:
    """Sensors around classic cores: a broker, a bridge with a prefix, groups of client devices by parameter."""
    stack = Stack(app, "BottlingLine")
    group = iot.CfnThingGroup(stack, "Cores")
    counter = component(
        stack, "Counter", "com.example.Counter", runtime="aws_nucleus_classic", asset=_asset(stack, code), step=5
    )
    prefix = CfnParameter(stack, "SensorPrefix", default="line-1-")
    groups = {
        "formatVersion": "2021-03-05",
        "definitions": {"sensors": {"selectionRule": f"thingName: {prefix.value_as_string}*", "policyName": "send"}},
        "policies": {
            "send": {
                "connect": {
                    "operations": ["mqtt:connect"],
                    "resources": ["mqtt:clientId:${iot:Connection.Thing.ThingName}"],
                },
                "say": {"operations": ["mqtt:publish"], "resources": ["mqtt:topic:counts/*"]},
                "hear": {"operations": ["mqtt:subscribe"], "resources": ["mqtt:topicfilter:orders/#"]},
            }
        },
    }
    ways = {
        "up": {"topic": "counts/#", "source": "LocalMqtt", "target": "IotCore", "targetTopicPrefix": "line/"},
        "across": {"topic": "counts/+", "source": "LocalMqtt", "target": "Pubsub"},
        "down": {"topic": "orders/line-1", "source": "IotCore", "target": "LocalMqtt"},
    }
    deployment = deploy(
        stack,
        "Deployment",
        group,
        {
            "com.example.Counter": "2.1.0",
            "aws.greengrass.Nucleus": "2.14.3",
            "aws.greengrass.Cli": "2.14.3",
            AUTH: "2.5.4",
            BROKER: "2.3.7",
            BRIDGE: "2.3.2",
        },
        **{
            AUTH: stack.to_json_string({"deviceGroups": groups}),
            BRIDGE: json.dumps({"mqttTopicMapping": ways}),
        },
    )
    deployment.add_dependency(counter)


def greenhouse(app: App, code: Path) -> None:
    """Small devices of nucleus lite in two groups below one, with their identity and what they may fetch."""
    identity, stack = Stack(app, "GreenhouseIdentity"), Stack(app, "Greenhouse")
    bucket = s3.Bucket(identity, "Readings")
    role = iam.Role(identity, "Exchange", assumed_by=iam.ServicePrincipal("credentials.iot.amazonaws.com"))
    bucket.grant_put(role, "readings/*")
    asset = _asset(stack, code)
    asset.grant_read(role)
    role.add_to_policy(iam.PolicyStatement(actions=["greengrass:ListThingGroupsForCoreDevice"], resources=["*"]))
    iot.CfnRoleAlias(identity, "Alias", role_arn=role.role_arn)
    thing = "${iot:Connection.Thing.ThingName}"
    iot_arn = f"arn:{Aws.PARTITION}:iot:{Aws.REGION}:{Aws.ACCOUNT_ID}:"
    allowed = [
        (["iot:Connect"], [f"client/{thing}*"]),
        (["iot:Publish", "iot:Receive"], [f"topic/greenhouse/{thing}/*", f"topic/$aws/things/{thing}/*"]),
        (["iot:Subscribe"], [f"topicfilter/greenhouse/{thing}/*", f"topicfilter/$aws/things/{thing}/*"]),
    ]
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", "Action": actions, "Resource": [iot_arn + each for each in found]}
        for actions, found in allowed
    ]
    data_plane = ["greengrass:GetComponentVersionArtifact", "greengrass:ResolveComponentCandidates"]
    statements.append({"Effect": "Allow", "Action": data_plane, "Resource": "*"})
    iot.CfnPolicy(identity, "Policy", policy_document={"Version": "2012-10-17", "Statement": statements})
    all_of_them = iot.CfnThingGroup(stack, "Houses", thing_group_name="houses")
    control = {
        "aws.greengrass.ipc.mqttproxy": {
            "com.example.Climate:says": {
                "operations": ["aws.greengrass#PublishToIoTCore"],
                "resources": ["greenhouse/climate"],
            }
        }
    }
    climate = component(
        stack,
        "Climate",
        "com.example.Climate",
        runtime="*",
        asset=asset,
        topic="greenhouse/climate",
        accessControl=control,
    )
    for name in ("Trial", "Harvest"):
        group = iot.CfnThingGroup(stack, name, parent_group_name=all_of_them.thing_group_name)
        group.add_dependency(all_of_them)
        deploy(stack, f"{name}Deployment", group, {"com.example.Climate": "2.1.0"}).add_dependency(climate)


def web_shop(app: App, code: Path) -> None:
    """No edge at all: a function, events, a topic with a key, a machine in a network."""
    stack = Stack(app, "WebShop")
    key = kms.Key(stack, "Key", enable_key_rotation=True)
    topic = sns.Topic(stack, "Orders", master_key=key)
    function = lambda_.Function(
        stack,
        "Ship",
        runtime=lambda_.Runtime.PYTHON_3_12,
        handler="main.handler",
        code=lambda_.Code.from_asset(str(code)),
    )
    topic.grant_publish(function)
    events.Rule(
        stack,
        "Daily",
        schedule=events.Schedule.expression("rate(1 day)"),
        targets=[targets.LambdaFunction(function), targets.SnsTopic(topic)],
    )
    is_large = CfnCondition(stack, "IsLarge", expression=Fn.condition_equals(Aws.REGION, "eu-west-1"))
    ec2.CfnInstance(
        stack,
        "Machine",
        instance_type=Fn.condition_if(is_large.logical_id, "m7g.large", "t4g.small").to_string(),
        image_id="{{resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64}}",
        user_data=Fn.base64("#!/bin/sh\nexec nginx\n"),
    )


def _asset(stack: Stack, code: Path) -> s3_assets.Asset:
    return s3_assets.Asset(stack, "Code", path=str(code))


@pytest.mark.parametrize("define", [bottling_line, greenhouse, web_shop], ids=lambda each: each.__name__)
def test_another_app_breaks_no_rule(define: Callable[[App, Path], None], tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("print('hello')\n")
    app = App(outdir=str(tmp_path / "out"), analytics_reporting=False)
    define(app, code)
    assembly = Path(app.synth().directory)

    found = find(FleetView.read(sorted(assembly.glob("*.template.json"))))

    assert {
        rule.id: [(each.resource.logical_id, each.location, each.value) for each in all_of_it]
        for rule, all_of_it in found
    } == {}
