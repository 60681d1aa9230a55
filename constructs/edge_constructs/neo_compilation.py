"""SageMaker Neo compilation jobs as CloudFormation resources."""

from aws_cdk import Duration
from constructs import Construct

from edge_constructs import neo_rules as rules
from edge_constructs.compilation_target import CompilationError, CompilationLimits, CompilationTarget
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

#: A job's name adds a dash and 12 digits of its content.
_LONGEST_PREFIX = 50


class NeoCompilation(Construct):
    """Compiles one model; a change of source or target runs a new job, any other change none.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        job: Name of the jobs without the suffix of their content, at most 50 characters.
        role_arn: The role that SageMaker takes to read the source and write the artifact.
        source_uri: S3 URI of the source archive.
        output_uri: S3 prefix of the artifacts.
        target: What the model is compiled from and for.
        key_arn: Encrypts the artifact.
        limits: How the job runs; half an hour at most and without a VPC unless given.

    Raises:
        CompilationError: SageMaker would refuse the job.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        job: str,
        role_arn: str,
        source_uri: str,
        output_uri: str,
        target: CompilationTarget,
        key_arn: str,
        limits: CompilationLimits | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        limits = limits or CompilationLimits()
        mistakes = [
            *rules.TextRule(rules.JOB_NAME.pattern, 1, _LONGEST_PREFIX).mistakes("job", job),
            *rules.ROLE_ARN.mistakes("role_arn", role_arn),
            *rules.S3_URI.mistakes("source_uri", source_uri),
            *rules.S3_URI.mistakes("output_uri", output_uri),
            *rules.KMS_KEY_ID.mistakes("key_arn", key_arn),
            *target.mistakes(),
            *limits.mistakes(),
        ]
        if mistakes:
            raise CompilationError("\n".join(f"compilation of {job}: {mistake}" for mistake in mistakes))
        provider = HandlerProvider(
            self,
            "Handler",
            capability="neo_compilation",
            permissions=_permissions(job, role_arn),
            waits=True,
            limit=Duration.minutes(limits.max_runtime_minutes + 10),
            query_interval=Duration.seconds(2),
        )
        vpc = {"Subnets": list(limits.subnets), "SecurityGroupIds": list(limits.security_groups)}
        resource = provider.resource(
            self,
            "Job",
            properties={
                "JobNamePrefix": job,
                "RoleArn": role_arn,
                "SourceUri": source_uri,
                "OutputUri": output_uri,
                "MaxRuntimeSeconds": str(limits.max_runtime_minutes * 60),
                "KmsKeyId": key_arn,
                **target.properties(),
                **(vpc if limits.subnets else {}),
            },
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")
        self.job_name = resource.get_att_string("JobName")


def _permissions(job: str, role_arn: str) -> list[Permission]:
    return [
        Permission(
            actions=tuple(f"sagemaker:{verb}CompilationJob" for verb in ("Create", "Describe", "Stop", "Delete")),
            resources=(arn("sagemaker", f"compilation-job/{job}-*"),),
            wildcard_reason="a job's name ends with a digest of its content",
        ),
        Permission(
            actions=("iam:PassRole",),
            resources=(role_arn,),
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        ),
    ]
