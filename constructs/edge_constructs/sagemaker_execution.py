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
    """

    def __init__(self, scope: Construct, construct_id: str, *, bucket: ArtifactBucket) -> None:
        super().__init__(scope, construct_id)
        log_group = arn("logs", "log-group:/aws/sagemaker/CompilationJobs")
        role = ServiceRole(
            self,
            "Role",
            service="sagemaker.amazonaws.com",
            permissions=[
                *bucket.reading("sources/"),
                *bucket.writing("compiled/"),
                bucket.listing(),
                Permission(
                    ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
                    (log_group, f"{log_group}:*"),
                    wildcard_reason="SageMaker names the streams of this log group after its jobs",
                ),
            ],
        )
        self.role_arn = role.arn
