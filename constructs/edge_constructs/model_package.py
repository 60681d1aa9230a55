"""How a model becomes what devices download: optimised ahead of time by ONNX Runtime, packed and signed."""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Duration, Size
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.edge_assets import compiler_python
from edge_constructs.encryption_key import SigningKey
from edge_constructs.handler_provider import HandlerProvider
from edge_handlers import model_package, onnx_compilation

#: The runtime's wheels unpacked (about 0.2 GB), the source and the result.
_COMPILER_DISK = Size.gibibytes(5)
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
        runtime_uri: S3 URI of an archive with the wheels of numpy and ONNX Runtime for the function's Python.
        input_shapes: Name of each input to its shape.
        python: Version of the devices' interpreter, such as `3.11`; the function's follows from it.
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
            disk=_COMPILER_DISK,
            python=compiler_python(python),
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


#: The packer unpacks both archives and writes the package beside them.
DISK = Size.gibibytes(4)


class ModelPackage(Construct):
    """Packs a compiled model, its source's other files and a manifest under a content-addressed key.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds the inputs and takes the package.
        model: The model's name.
        package: Name of the archive without `.zip`.
        version: The model component's version, which the manifest repeats.
        compiled_uri: S3 URI of the compiler's artifact.
        source_uri: S3 URI of the source archive.
        manifest: What devices must know of the model: inputs, outputs, labels, pre-processing.
        key_arn: Encrypts the package.
        signing_key: Signs the manifest.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        model: str,
        package: str,
        version: str,
        compiled_uri: str,
        source_uri: str,
        manifest: Mapping[str, Any],
        key_arn: str,
        signing_key: SigningKey,
    ) -> None:
        super().__init__(scope, construct_id)
        prefix = f"models/{model}"
        provider = HandlerProvider(
            self,
            "Handler",
            handler=model_package,
            permissions=[
                *bucket.access(reads=("compiled/", f"sources/{model}/"), writes=(f"{prefix}/",)),
                bucket.listing(),
                *signing_key.signing(),
            ],
            limit=Duration.minutes(10),
            memory_mb=1024,
            disk=DISK,
        )
        resource = provider.resource(
            self,
            "Package",
            model_package.ModelPackage(
                compiled_uri=compiled_uri,
                source_uri=source_uri,
                bucket=bucket.name,
                prefix=prefix,
                name=package,
                version=version,
                manifest=dict(manifest),
                kms_key_id=key_arn,
                signing_key_id=signing_key.arn,
            ),
        )
        #: Base64 of the DER form, as the inference component is told it.
        self.public_key = resource.get_att_string("PublicKey")
        self.uri = resource.get_att_string("Uri")
