"""The event that a deployment has failed on a device."""

import json
from collections.abc import Sequence

from aws_cdk import aws_events as events
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import arn

DETAIL_TYPE = "Greengrass V2 Effective Deployment Status Change"
#: An event pattern may have 2,048 characters (EventBridge quotas); devices named after the stage take none of them.
LIMIT_DEVICES = 10
#: The resources are a list: without quotes around the placeholder it stays one.
_MESSAGE = (
    '{"AlarmName": %s, "devices": <devices>, "deploymentId": "<deployment>", "status": "<status>", '
    '"reason": "<reason>"}'
)


class DeploymentNotice(Construct):
    """Tells a topic of each device on which a deployment failed or was rejected.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The event rule's name.
        topic_arn: Where it goes.
        prefix: Names of the stage's devices begin with it and a hyphen.
        devices: Thing names that the stage registers.

    Raises:
        ValueError: Too many devices are named otherwise.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, name: str, topic_arn: str, prefix: str, devices: Sequence[str]
    ) -> None:
        super().__init__(scope, construct_id)
        others = [device for device in devices if not device.startswith(f"{prefix}-")]
        if len(others) > LIMIT_DEVICES:
            raise ValueError(
                f"at most {LIMIT_DEVICES} devices may have names that do not begin with {prefix}-, got {len(others)}: "
                f"{', '.join(others)}"
            )
        self.resource = events.CfnRule(
            self,
            "Resource",
            name=name,
            description="A deployment failed on a device",
            event_pattern={
                "source": ["aws.greengrass"],
                "detail-type": [DETAIL_TYPE],
                "resources": [
                    {"prefix": core_device(f"{prefix}-")},
                    *(core_device(device) for device in others),
                ],
                "detail": {"coreDeviceExecutionStatus": ["FAILED", "REJECTED"]},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Notifications",
                    arn=topic_arn,
                    input_transformer=events.CfnRule.InputTransformerProperty(
                        input_paths_map={
                            "devices": "$.resources",
                            "deployment": "$.detail.deploymentId",
                            "status": "$.detail.coreDeviceExecutionStatus",
                            "reason": "$.detail.reason",
                        },
                        input_template=_MESSAGE % json.dumps(name),
                    ),
                )
            ],
        )
        acknowledge(
            self.resource,
            {
                "Serverless-EventBusDLQ": "EventBridge tries to tell the topic for 24 hours; the deployment's own "
                "status keeps the failure, and the health resource of the deploy has told it before"
            },
        )


def core_device(name: str) -> str:
    """ARN of a Greengrass core device, or what the ARNs of several begin with."""
    return arn("greengrass", f"coreDevices:{name}")
