"""The role that SageMaker's jobs run with."""

from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.permission import Permission, arn
from edge_constructs.service_role import ServiceRole


class SageMakerExecution(Construct):
    """Lets compilation jobs read model sources, write compiled models and log.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Sources and results.
        in_vpc: Whether a job runs in a VPC, for which SageMaker makes network interfaces with this role.
        serves: Whether endpoints verify models, for which they read their own form of them and their image.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, bucket: ArtifactBucket, in_vpc: bool = False, serves: bool = False
    ) -> None:
        super().__init__(scope, construct_id)
        reads = ("verification/",) if serves else ()
        log_group = arn("logs", "log-group:/aws/sagemaker/CompilationJobs")
        role = ServiceRole(
            self,
            "Role",
            service="sagemaker.amazonaws.com",
            permissions=[
                *bucket.access(reads=("sources/", *reads), writes=("compiled/",)),
                bucket.listing(),
                Permission(
                    ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
                    (log_group, f"{log_group}:*"),
                    wildcard_reason="SageMaker names the streams of this log group after its jobs",
                ),
                *([_network_interfaces()] if in_vpc else []),
                *(_serving() if serves else []),
            ],
        )
        self.role_arn = role.arn


def _network_interfaces() -> Permission:
    """What SageMaker's guide asks for where a job has a VpcConfig."""
    verbs = (
        "CreateNetworkInterface",
        "CreateNetworkInterfacePermission",
        "DeleteNetworkInterface",
        "DeleteNetworkInterfacePermission",
        "DescribeDhcpOptions",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "DescribeVpcs",
    )
    return Permission(
        tuple(f"ec2:{verb}" for verb in verbs),
        ("*",),
        wildcard_reason="SageMaker makes the interface, so its id is not known; the describing calls know no resource",
    )


def _serving() -> list[Permission]:
    """What SageMaker's guide asks for where a role runs an endpoint of one of AWS's images."""
    log_group = arn("logs", "log-group:/aws/sagemaker/Endpoints/*")
    return [
        Permission(
            ("ecr:GetAuthorizationToken",), ("*",), wildcard_reason="the service knows no resource for this action"
        ),
        Permission(
            ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
            (arn("ecr", "repository/sagemaker-tritonserver", account="*"),),
            wildcard_reason="the image lies in an account of AWS that differs from region to region",
        ),
        Permission(
            ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"),
            (log_group, f"{log_group}:*"),
            wildcard_reason="SageMaker names the log group after the endpoint",
        ),
    ]
