"""A CodeBuild project that runs make targets of this repository."""

import json
from collections.abc import Mapping, Sequence

from aws_cdk import RemovalPolicy
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import Permission
from edge_constructs.service_role import ServiceRole

IMAGE = "aws/codebuild/amazonlinux-x86_64-standard:5.0"
PYTHON = "3.11"
TIMEOUT_MINUTES = 60
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
    ) -> None:
        super().__init__(scope, construct_id)
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY)
        acknowledge(log, _LOG_FINDINGS)
        logging = Permission(("logs:CreateLogStream", "logs:PutLogEvents"), (log.log_group_arn,))
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
            timeout_in_minutes=TIMEOUT_MINUTES,
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
