"""What the edge server may do while it makes itself a core device, and for remote access."""

from aws_cdk import aws_iam as iam
from constructs import Construct

from edge_constructs.permission import Permission, arn
from edge_constructs.service_role import ServiceRole

_NO_RESOURCE = "the service knows no resource for these actions"
_CERTIFICATES = "the instance makes its certificate itself: its id is not known before"
_SESSIONS = "SSM's agent acts on channels that have no names of their own"


class EdgeInstanceRole(Construct):
    """Provisions exactly one thing, and lets operators in through Session Manager in place of an open port.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        thing: The thing that the instance becomes.
        thing_group: The group that it joins.
        policy: IoT policy of its certificate.
    """

    def __init__(self, scope: Construct, construct_id: str, *, thing: str, thing_group: str, policy: str) -> None:
        super().__init__(scope, construct_id)
        certificates = arn("iot", "cert/*")
        role = ServiceRole(
            self,
            "Role",
            service="ec2.amazonaws.com",
            permissions=[
                Permission(
                    (
                        "iot:DescribeEndpoint",
                        "iot:CreateKeysAndCertificate",
                        "iot:AttachThingPrincipal",
                        "iot:DetachThingPrincipal",
                    ),
                    ("*",),
                    wildcard_reason=_NO_RESOURCE,
                ),
                Permission(
                    ("iot:AttachPolicy", "iot:DetachPolicy"),
                    (certificates, arn("iot", f"policy/{policy}")),
                    wildcard_reason=_CERTIFICATES,
                ),
                Permission(
                    ("iot:UpdateCertificate", "iot:DeleteCertificate"), (certificates,), wildcard_reason=_CERTIFICATES
                ),
                Permission(
                    ("iot:AddThingToThingGroup",),
                    (arn("iot", f"thing/{thing}"), arn("iot", f"thinggroup/{thing_group}")),
                ),
                Permission(
                    (
                        "ssm:UpdateInstanceInformation",
                        "ssmmessages:CreateControlChannel",
                        "ssmmessages:CreateDataChannel",
                        "ssmmessages:OpenControlChannel",
                        "ssmmessages:OpenDataChannel",
                    ),
                    ("*",),
                    wildcard_reason=_SESSIONS,
                ),
            ],
        )
        self.profile_name = iam.CfnInstanceProfile(self, "Profile", roles=[role.name]).ref
