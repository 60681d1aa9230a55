"""SageMaker edge packaging jobs: retired by AWS, kept behind a switch for accounts and twins that still have them."""

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn


class EdgePackaging(Construct):
    """Packs a compilation job's artifact as SageMaker Edge Manager did.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        job: What the job's name starts with, at most 48 characters.
        compilation_job: Name of the compilation job.
        model: The model's name.
        version: The model's version.
        role_arn: The role that SageMaker takes.
        output_uri: S3 prefix of the artifact.
        key_arn: Encrypts the artifact.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        job: str,
        compilation_job: str,
        model: str,
        version: str,
        role_arn: str,
        output_uri: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            capability="edge_packaging",
            permissions=[
                Permission(
                    tuple(f"sagemaker:{verb}EdgePackagingJob" for verb in ("Create", "Describe", "Stop")),
                    (arn("sagemaker", f"edge-packaging-job/{job}-*"),),
                    wildcard_reason="a job's name ends with a digest of its content",
                ),
                Permission(
                    ("iam:PassRole",),
                    (role_arn,),
                    conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
                ),
            ],
            waits=True,
            limit=Duration.minutes(30),
            query_interval=Duration.seconds(5),
            accepted={
                "Edge-EdgeManager": "a stage asks for it by a model's packager, in an account where the service still "
                "answers; by default the packager is our own"
            },
        )
        resource = provider.resource(
            self,
            "Job",
            properties={
                "JobNamePrefix": job,
                "CompilationJobName": compilation_job,
                "ModelName": model,
                "ModelVersion": version,
                "RoleArn": role_arn,
                "OutputUri": output_uri,
                "KmsKeyId": key_arn,
            },
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")
