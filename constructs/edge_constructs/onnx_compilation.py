"""Models optimised ahead of time by ONNX Runtime."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, Size
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.handler_provider import HandlerProvider
from edge_handlers import onnx_compilation

#: The runtime's wheels unpacked (about 0.2 GB), the source and the result.
DISK = Size.gibibytes(5)
#: ONNX Runtime holds the graph twice while it writes it.
MEMORY_MB = 3008


class OnnxCompilation(Construct):
    """Runs the devices' own ONNX Runtime over a model; no SageMaker, no job to wait for.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds source and runtime, takes the result.
        model: The model's name.
        job: What the result's folder starts with.
        source_uri: S3 URI of the source archive.
        runtime_uri: S3 URI of the runtime component's archive.
        input_shapes: Name of each input to its shape.
        python: Version of the wheels in the archive, such as `3.11`.
        architecture: Of the wheels, as `uname -m` prints it.
        key_arn: Encrypts the result.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        model: str,
        job: str,
        source_uri: str,
        runtime_uri: str,
        input_shapes: Mapping[str, Sequence[int]],
        python: str,
        architecture: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        provider = HandlerProvider(
            self,
            "Handler",
            handler=onnx_compilation,
            permissions=[
                *bucket.access(reads=(f"sources/{model}/", "artifacts/"), writes=("compiled/",)),
                bucket.listing(),
            ],
            limit=Duration.minutes(15),
            memory_mb=MEMORY_MB,
            disk=DISK,
            python=python,
            architecture=architecture,
        )
        resource = provider.resource(
            self,
            "Model",
            onnx_compilation.OnnxCompilation(
                source_uri=source_uri,
                runtime_uri=runtime_uri,
                output_uri=f"s3://{bucket.name}/compiled",
                name=job,
                shapes=dict(input_shapes),
                kms_key_id=key_arn,
            ),
        )
        self.artifact_uri = resource.get_att_string("ArtifactUri")
