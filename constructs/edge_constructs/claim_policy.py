"""What a claim certificate allows: to trade it for one of the device's own, and nothing else."""

from typing import Any

from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import arn


class ClaimPolicy(Construct):
    """The IoT policy of the claim certificates, which many devices share and anybody may have copied.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        template: Name of the provisioning template.
        prefix: Names of the stage's things begin with it and a hyphen; nobody connects under one of them with a claim.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str, template: str, prefix: str) -> None:
        super().__init__(scope, construct_id)
        calls = ("$aws/certificates/create/json", f"$aws/provisioning-templates/{template}/provision/json")
        answers = [f"{call}/{answer}" for call in calls for answer in ("accepted", "rejected")]
        statements = [
            # Greengrass' provisioning plug-in connects under a random name.
            _statement("Allow", "iot:Connect", ["client/*"]),
            # A connection under a device's name would take that device's own down.
            _statement("Deny", "iot:Connect", [f"client/{prefix}-*"]),
            _statement("Allow", "iot:Publish", [f"topic/{call}" for call in calls]),
            _statement("Allow", "iot:Subscribe", [f"topicfilter/{answer}" for answer in answers]),
            _statement("Allow", "iot:Receive", [f"topic/{answer}" for answer in answers]),
        ]
        self.resource = iot.CfnPolicy(
            self,
            "Resource",
            policy_name=name,
            policy_document={"Version": "2012-10-17", "Statement": statements},
        )
        acknowledge(
            self.resource,
            {
                "Edge-IotClientId": "a device with a claim is no thing yet, and Greengrass' plug-in connects under a "
                "random name; names of the stage's things are denied"
            },
        )


def _statement(effect: str, action: str, resources: list[str]) -> dict[str, Any]:
    return {"Effect": effect, "Action": action, "Resource": [arn("iot", resource) for resource in resources]}
