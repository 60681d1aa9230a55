"""The role that core devices take with their certificates, and its alias."""

from aws_cdk import Duration
from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.permission import Permission, arn
from edge_constructs.service_role import ServiceRole

CREDENTIALS_LIFETIME = Duration.hours(1)


class TokenExchange(Construct):
    """Lets core devices fetch artifacts and write captures, and nothing else.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        alias: Name of the role alias.
        bucket: The artifacts, and the captures below `captures/`.
    """

    def __init__(self, scope: Construct, construct_id: str, *, alias: str, bucket: ArtifactBucket) -> None:
        super().__init__(scope, construct_id)
        role = ServiceRole(
            self,
            "Role",
            service="credentials.iot.amazonaws.com",
            permissions=[
                *bucket.reading("artifacts/", "models/"),
                *bucket.adding("captures/"),
                Permission(("s3:GetBucketLocation",), (bucket.arn,)),
                Permission(
                    ("greengrass:ListThingGroupsForCoreDevice",),
                    (arn("greengrass", "coreDevices:*"),),
                    wildcard_reason="all core devices share the role; without the call they miss removals",
                ),
            ],
        )
        self.alias = iot.CfnRoleAlias(
            self,
            "Alias",
            role_alias=alias,
            role_arn=role.arn,
            credential_duration_seconds=int(CREDENTIALS_LIFETIME.to_seconds()),
        )
