"""What the certificate of a core device allows it in AWS IoT."""

from collections.abc import Sequence
from typing import Any

from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.permission import arn

#: Filled by AWS IoT with the name of the thing that the certificate is attached to.
THING = "${iot:Connection.Thing.ThingName}"
_OWN = f"$aws/things/{THING}"
_JOBS = "namespace-aws-gg-deployment"
#: Published by the nucleus: next job, a job's status, fleet status, shadow of its legacy deployment.
_PUBLISHED = (
    f"{_OWN}/jobs/$next/{_JOBS}/get",
    f"{_OWN}/jobs/*/{_JOBS}/get",
    f"{_OWN}/jobs/*/{_JOBS}/update",
    f"{_OWN}/greengrass/health/json",
    f"{_OWN}/greengrassv2/health/json",
    f"{_OWN}/shadow/name/AWSManagedGreengrassV2Deployment/get",
    f"{_OWN}/shadow/name/AWSManagedGreengrassV2Deployment/update",
)
#: Subscribed to by the nucleus; its `+` is matched by the last `*`.
_SUBSCRIBED = (
    f"{_OWN}/jobs/notify-next-{_JOBS}",
    f"{_OWN}/jobs/$next/{_JOBS}/get/*",
    f"{_OWN}/jobs/*/{_JOBS}/get/*",
    f"{_OWN}/jobs/*/{_JOBS}/update/*",
    f"{_OWN}/shadow/name/AWSManagedGreengrassV2Deployment/get/*",
    f"{_OWN}/shadow/name/AWSManagedGreengrassV2Deployment/update/*",
)


class CoreDevicePolicy(Construct):
    """Connects a core device as its own thing, to its own topics and those of the stage's models.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        role_alias: Alias of the token exchange role.
        request_topics: Exact topics that the device's components subscribe to.
        response_topics: Exact topics that they publish to.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        role_alias: str,
        request_topics: Sequence[str],
        response_topics: Sequence[str],
    ) -> None:
        super().__init__(scope, construct_id)
        statements = [
            # The classic nucleus opens further connections as <thing>#2, <thing>#3 …
            _allow("iot:Connect", [f"client/{THING}", f"client/{THING}#*"]),
            _allow("iot:Publish", [f"topic/{topic}" for topic in (*_PUBLISHED, *response_topics)]),
            _allow("iot:Subscribe", [f"topicfilter/{topic}" for topic in (*_SUBSCRIBED, *request_topics)]),
            _allow("iot:Receive", [f"topic/{topic}" for topic in (*_SUBSCRIBED, *request_topics)]),
            _allow("iot:AssumeRoleWithCertificate", [f"rolealias/{role_alias}"]),
            {
                "Effect": "Allow",
                "Action": [
                    "greengrass:GetComponentVersionArtifact",
                    "greengrass:GetDeploymentConfiguration",
                    "greengrass:ListThingGroupsForCoreDevice",
                    "greengrass:ResolveComponentCandidates",
                ],
                "Resource": "*",
            },
        ]
        self.resource = iot.CfnPolicy(
            self,
            "Resource",
            policy_name=name,
            policy_document={"Version": "2012-10-17", "Statement": statements},
        )


def _allow(action: str, resources: Sequence[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": [arn("iot", resource) for resource in resources]}
