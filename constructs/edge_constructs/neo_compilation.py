"""SageMaker Neo compilation jobs as CloudFormation resources."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

_ARCHITECTURES = {"x86_64": "X86_64", "aarch64": "ARM64"}
MAX_RUNTIME = Duration.minutes(30)


@dataclass(frozen=True)
class CompilationTarget:
    """What a model is compiled from and for; it decides the artifact.

    Attributes:
        framework: SageMaker's name of the source's framework, such as `ONNX`.
        input_shapes: Name of each input to its shape.
        architecture: Of the devices, as `uname -m` prints it.
        framework_version: Left to SageMaker unless given.
    """

    framework: str
    input_shapes: Mapping[str, Sequence[int]]
    architecture: str
    framework_version: str = ""

    def properties(self) -> dict[str, Any]:
        """The properties of the custom resource that follow from it."""
        return {
            "Framework": self.framework,
            **({"FrameworkVersion": self.framework_version} if self.framework_version else {}),
            "DataInputConfig": json.dumps(self.input_shapes),
            "TargetOs": "LINUX",
            "TargetArch": _ARCHITECTURES[self.architecture],
        }


class NeoCompilation(Construct):
    """Compiles one model; a change of source or target runs a new job, any other change none.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        job: Name of the jobs without the suffix of their content.
        role_arn: The role that SageMaker takes to read the source and write the artifact.
        source_uri: S3 URI of the source archive.
        output_uri: S3 prefix of the artifacts.
        target: What the model is compiled from and for.
        key_arn: Encrypts the artifact.
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
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            capability="neo_compilation",
            permissions=[
                Permission(
                    actions=tuple(
                        f"sagemaker:{verb}CompilationJob" for verb in ("Create", "Describe", "Stop", "Delete")
                    ),
                    resources=(arn("sagemaker", f"compilation-job/{job}-*"),),
                    wildcard_reason="a job's name ends with a digest of its content",
                ),
                Permission(
                    actions=("iam:PassRole",),
                    resources=(role_arn,),
                    conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
                ),
            ],
            waits=True,
            limit=Duration.minutes(int(MAX_RUNTIME.to_minutes()) + 10),
            query_interval=Duration.seconds(5),
        )
        resource = provider.resource(
            self,
            "Job",
            properties={
                "JobNamePrefix": job,
                "RoleArn": role_arn,
                "SourceUri": source_uri,
                "OutputUri": output_uri,
                "MaxRuntimeSeconds": str(int(MAX_RUNTIME.to_seconds())),
                "KmsKeyId": key_arn,
                **target.properties(),
            },
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")
