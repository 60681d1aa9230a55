"""A pipeline inside AWS that runs make targets of this repository: checks, then deploys a stage."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import RemovalPolicy
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.artifact_store import ArtifactBucket, EncryptionKey
from edge_constructs.permission import ACCOUNT, Permission, ServiceRole, acknowledge, arn, logging_to

IMAGE = "aws/codebuild/amazonlinux-x86_64-standard:5.0"
PYTHON = "3.11"
CHECK_MINUTES = 60
#: A deploy waits for the server and for each ring's health; tests/plan/test_workflows.py reckons every stage's.
DEPLOY_MINUTES = 240
_LOG_FINDINGS = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log says what public make targets print; CloudWatch encrypts it "
    "with a key of its own"
}


class BuildProject(Construct):
    """Runs commands on what a pipeline hands over, unprivileged, without a secret in its environment.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        description: One sentence for the console.
        commands: Shell commands in the repository's folder, in order; the first that fails ends the build.
        variables: Environment variables; they are shown to everybody who may read the project.
        permissions: What the commands may do, besides writing their log.
        key_arn: Encrypts what the build leaves behind.
        timeout_minutes: After so long the build is ended.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        description: str,
        commands: Sequence[str],
        variables: Mapping[str, str],
        permissions: Sequence[Permission],
        key_arn: str,
        timeout_minutes: int,
    ) -> None:
        super().__init__(scope, construct_id)
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY)
        acknowledge(log, _LOG_FINDINGS)
        logging = logging_to(log.log_group_arn)
        role = ServiceRole(self, "Role", service="codebuild.amazonaws.com", permissions=[logging, *permissions])
        specification = {
            "version": "0.2",
            "phases": {
                "install": {"runtime-versions": {"python": PYTHON}},
                "build": {"commands": list(commands), "on-failure": "ABORT"},
            },
        }
        self._resource = codebuild.CfnProject(
            self,
            "Resource",
            description=description,
            artifacts=codebuild.CfnProject.ArtifactsProperty(type="CODEPIPELINE"),
            source=codebuild.CfnProject.SourceProperty(type="CODEPIPELINE", build_spec=json.dumps(specification)),
            environment=codebuild.CfnProject.EnvironmentProperty(
                type="LINUX_CONTAINER",
                compute_type="BUILD_GENERAL1_MEDIUM",
                image=IMAGE,
                privileged_mode=False,
                environment_variables=[
                    codebuild.CfnProject.EnvironmentVariableProperty(name=name, value=value)
                    for name, value in sorted(variables.items())
                ],
            ),
            service_role=role.arn,
            encryption_key=key_arn,
            timeout_in_minutes=timeout_minutes,
            # A second deploy must not overtake the first.
            concurrent_build_limit=1,
            logs_config=codebuild.CfnProject.LogsConfigProperty(
                cloud_watch_logs=codebuild.CfnProject.CloudWatchLogsConfigProperty(
                    status="ENABLED", group_name=log.log_group_name
                )
            ),
        )
        self.name = self._resource.ref
        self.arn = self._resource.attr_arn


_SOURCE = "Source"
#: CodePipeline's folder in the bucket is the first characters of the pipeline's name.
_FOLDER_LENGTH = 20


def deploying(qualifier: str, region: str) -> Permission:
    """All that whoever runs `cdk deploy` needs: the bootstrap's roles (docs/deployer-policy.json).

    Args:
        qualifier: Of the bootstrap.
        region: Of the stage.
    """
    roles = (f"cdk-{qualifier}-{kind}-role-{ACCOUNT}-{region}" for kind in ("deploy", "file-publishing"))
    return Permission(("sts:AssumeRole",), tuple(arn("iam", f"role/{role}", region="") for role in roles))


class DeployPipeline(Construct):
    """Source, checks, approval and deploy of one stage.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Of the pipeline.
        connection_arn: Connection to the Git host, made and confirmed by a person.
        repository: `owner/name` there.
        branch: What is deployed when it changes.
        stage: The stage.
        stacks: Ids of the stacks to deploy. The pipeline's own is not among them: an execution must not change
            the pipeline that it runs in.
        bucket: Holds what the steps hand over.
        key: Encrypts it.
        deployer: What the deploy may do.
        approval: Whether a person must agree after the checks.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        connection_arn: str,
        repository: str,
        branch: str,
        stage: str,
        stacks: Sequence[str],
        bucket: ArtifactBucket,
        key: EncryptionKey,
        deployer: Permission,
        approval: bool,
    ) -> None:
        super().__init__(scope, construct_id)
        folder = f"{name[:_FOLDER_LENGTH]}/"
        connection = Permission((f"{connection_arn.split(':')[2]}:UseConnection",), (connection_arn,))
        key_arn = key.key.key_arn
        # The history comes along, so that a plan can compare with the commit before; only a clone has it.
        sources = [connection, *bucket.reading(folder, actions=("s3:GetObject", "s3:GetObjectVersion"))]
        check = BuildProject(
            self,
            "Check",
            description=f"Everything that a pull request must pass, and the plan of {stage}",
            commands=["make setup-dev", "make check", "make pytest", "make compliance", "make plan BASE=HEAD~1"],
            variables={"STAGE": stage},
            permissions=sources,
            key_arn=key_arn,
            timeout_minutes=CHECK_MINUTES,
        )
        deploy = BuildProject(
            self,
            "Deploy",
            description=f"Deploys {stage}",
            commands=["make setup", "make deploy"],
            variables={"STAGE": stage, "STACKS": " ".join(stacks)},
            permissions=[*sources, deployer],
            key_arn=key_arn,
            timeout_minutes=DEPLOY_MINUTES,
        )
        role = self._role(connection, bucket, folder, [check, deploy])
        source = {
            "ConnectionArn": connection_arn,
            "FullRepositoryId": repository,
            "BranchName": branch,
            "OutputArtifactFormat": "CODEBUILD_CLONE_REF",
        }
        steps = [
            ("Source", _action("Source", "CodeStarSourceConnection", source, outputs=_SOURCE)),
            ("Check", _action("Build", "CodeBuild", {"ProjectName": check.name}, inputs=_SOURCE)),
            *([("Approve", _action("Approval", "Manual", {}))] if approval else []),
            ("Deploy", _action("Build", "CodeBuild", {"ProjectName": deploy.name}, inputs=_SOURCE)),
        ]
        codepipeline.CfnPipeline(
            self,
            "Resource",
            name=name,
            pipeline_type="V2",
            # Executions wait for each other: a deploy that is cut off leaves stacks half way.
            execution_mode="QUEUED",
            role_arn=role.arn,
            artifact_store=codepipeline.CfnPipeline.ArtifactStoreProperty(
                type="S3",
                location=bucket.name,
                encryption_key=codepipeline.CfnPipeline.EncryptionKeyProperty(type="KMS", id=key_arn),
            ),
            stages=[
                codepipeline.CfnPipeline.StageDeclarationProperty(name=step, actions=[{"name": step, **action}])
                for step, action in steps
            ],
        )

    def _role(
        self, connection: Permission, bucket: ArtifactBucket, folder: str, projects: Sequence[BuildProject]
    ) -> ServiceRole:
        return ServiceRole(
            self,
            "Role",
            service="codepipeline.amazonaws.com",
            permissions=[
                connection,
                *bucket.writing(folder, actions=("s3:GetObject", "s3:GetObjectVersion", "s3:PutObject")),
                Permission(("s3:GetBucketVersioning", "s3:GetBucketAcl", "s3:GetBucketLocation"), (bucket.arn,)),
                Permission(
                    ("codebuild:BatchGetBuilds", "codebuild:StartBuild"), tuple(project.arn for project in projects)
                ),
            ],
        )


def _action(
    category: str, provider: str, configuration: dict[str, Any], *, inputs: str = "", outputs: str = ""
) -> dict[str, Any]:
    return {
        "actionTypeId": {"category": category, "owner": "AWS", "provider": provider, "version": "1"},
        "configuration": configuration,
        "inputArtifacts": [{"name": inputs}] if inputs else [],
        "outputArtifacts": [{"name": outputs}] if outputs else [],
    }
