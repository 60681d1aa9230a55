"""What the certificate of a core device allows it in AWS IoT."""

import json
import re
from collections.abc import Sequence
from typing import Any

from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.permission import arn

#: Filled by AWS IoT with the name of the thing that the certificate is attached to.
THING = "${iot:Connection.Thing.ThingName}"
#: Jobs, fleet status and shadows of that thing. AWS IoT allows a policy 2,048 characters (API reference, CreatePolicy):
#: the nucleus' thirteen topics one by one would take 2,300, and none of them is another thing's.
_OWN = f"$aws/things/{THING}/*"
LIMIT_CHARACTERS = 2048


class CoreDevicePolicy(Construct):
    """Connects a core device as its own thing, to its own topics and those of the stage's models.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        role_alias: Alias of the token exchange role.
        request_topics: Exact topics that the device's components subscribe to.
        response_topics: Exact topics that they publish to.

    Raises:
        ValueError: The policy would be longer than AWS IoT allows.
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
            _allow("iot:Publish", [f"topic/{topic}" for topic in (_OWN, *response_topics)]),
            _allow("iot:Subscribe", [f"topicfilter/{topic}" for topic in (_OWN, *request_topics)]),
            _allow("iot:Receive", [f"topic/{topic}" for topic in (_OWN, *request_topics)]),
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
        characters = _characters(statements)
        if characters > LIMIT_CHARACTERS:
            raise ValueError(
                f"IoT policy {name} must have at most {LIMIT_CHARACTERS} characters, got {characters}: its topics are "
                f"{', '.join((*request_topics, *response_topics))}; use fewer models, handlers or "
                "topics, or shorter names"
            )
        self.resource = iot.CfnPolicy(
            self,
            "Resource",
            policy_name=name,
            policy_document={"Version": "2012-10-17", "Statement": statements},
        )


def _allow(action: str, resources: Sequence[str]) -> dict[str, Any]:
    # A policy holds in its own Region and account only: naming them would take a fifth of the characters there are.
    named = [arn("iot", resource, region="*", account="*") for resource in resources]
    return {"Effect": "Allow", "Action": action, "Resource": named}


def _characters(statements: Sequence[dict[str, Any]]) -> int:
    """Length of the document without white space, with the longest partition that its tokens can stand for."""
    text = json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
    return len(re.sub(r"\$\{Token\[[^]]*\]\}", "aws-us-gov", text))
