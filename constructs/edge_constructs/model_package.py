"""How models become what devices download: optimised ahead of time by ONNX Runtime, packed and signed.

One function a step serves all models of a stage. What a function may touch is named by a prefix; that a request keeps
to its own model's objects is checked by the handler.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Duration, Size
from constructs import Construct

from edge_constructs.artifact_store import ArtifactBucket, SigningKey
from edge_constructs.edge_assets import compiler_python
from edge_constructs.handler_provider import HandlerProvider
from edge_handlers import model_package, onnx_compilation

#: The runtime's wheels unpacked (about 0.2 GB), the source and the result.
_COMPILER_DISK = Size.gibibytes(5)
#: ONNX Runtime holds the graph twice while it writes it.
MEMORY_MB = 3008


class OnnxCompiler(Construct):
    """Runs the devices' own ONNX Runtime over models; no SageMaker, no job to wait for.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds sources and runtime, takes the results.
        runtime_uri: S3 URI of an archive with the wheels of numpy and ONNX Runtime for the function's Python.
        python: Version of the devices' interpreter, such as `3.11`; the function's follows from it.
        architecture: Of the wheels, as `uname -m` prints it.
        key_arn: Encrypts the results.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        runtime_uri: str,
        python: str,
        architecture: str,
        key_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._output_uri, self._runtime_uri, self._key_arn = f"s3://{bucket.name}/compiled", runtime_uri, key_arn
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=onnx_compilation,
            permissions=[
                *bucket.access(reads=("sources/", "artifacts/"), writes=("compiled/",)),
                bucket.listing(),
            ],
            limit=Duration.minutes(15),
            memory_mb=MEMORY_MB,
            disk=_COMPILER_DISK,
            python=compiler_python(python),
            architecture=architecture,
        )

    def compile(
        self,
        scope: Construct,
        construct_id: str,
        *,
        model: str,
        job: str,
        source_uri: str,
        input_shapes: Mapping[str, Sequence[int]],
    ) -> str:
        """Define the compilation of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            model: The model's name.
            job: What the result's folder starts with.
            source_uri: S3 URI of the source archive.
            input_shapes: Name of each input to its shape.

        Returns:
            S3 URI of the artifact.
        """
        resource = self._provider.resource(
            scope,
            construct_id,
            onnx_compilation.OnnxCompilation(
                model=model,
                source_uri=source_uri,
                runtime_uri=self._runtime_uri,
                output_uri=self._output_uri,
                name=job,
                shapes=dict(input_shapes),
                kms_key_id=self._key_arn,
            ),
        )
        return resource.get_att_string("ArtifactUri")


#: The packer unpacks both archives and writes the package beside them.
DISK = Size.gibibytes(4)


class ModelPackager(Construct):
    """Packs compiled models, their sources' other files and manifests, each under a key that its content gives.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Holds the inputs and takes the packages.
        key_arn: Encrypts the packages.
        signing_key: Signs the manifests.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, bucket: ArtifactBucket, key_arn: str, signing_key: SigningKey
    ) -> None:
        super().__init__(scope, construct_id)
        self._bucket, self._key_arn, self._signing_key = bucket, key_arn, signing_key
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=model_package,
            permissions=[
                *bucket.access(reads=("compiled/", "sources/"), writes=("models/",)),
                bucket.listing(),
                *signing_key.signing(),
            ],
            limit=Duration.minutes(10),
            memory_mb=1024,
            disk=DISK,
        )

    def pack(
        self,
        scope: Construct,
        construct_id: str,
        *,
        model: str,
        package: str,
        version: str,
        content: str,
        job: str,
        compiled_uri: str,
        source_uri: str,
        manifest: Mapping[str, Any],
    ) -> "ModelPackage":
        """Define the package of one model.

        Args:
            scope: Parent construct.
            construct_id: Id below it.
            model: The model's name.
            package: Name of the archive without `.zip`.
            version: The model component's version.
            content: Digest of all that the package is made of. It names the place, which is known before the deploy.
            job: What the folders of the model's compilations start with.
            compiled_uri: S3 URI of the compiler's artifact; empty where there is none.
            source_uri: S3 URI of the source archive.
            manifest: What devices must know of the model: inputs, outputs, labels, pre-processing.

        Returns:
            The package.
        """
        contract = model_package.ModelPackage(
            compiled_uri=compiled_uri,
            source_uri=source_uri,
            bucket=self._bucket.name,
            model=model,
            job=job,
            name=package,
            version=version,
            content=content,
            manifest=dict(manifest),
            kms_key_id=self._key_arn,
            signing_key_id=self._signing_key.arn,
        )
        return ModelPackage(scope, construct_id, provider=self._provider, contract=contract)


class ModelPackage(Construct):
    """One model's package.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        provider: Makes it.
        contract: What it is made of.

    Attributes:
        uri: Where it lies.
        public_key: Base64 of the DER form, as the inference component is told it; known at the deploy only.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        provider: HandlerProvider,
        contract: model_package.ModelPackage,
    ) -> None:
        super().__init__(scope, construct_id)
        resource = provider.resource(self, "Package", contract)
        self.uri = f"s3://{contract.bucket}/{contract.key_of_package}"
        self.public_key = resource.get_att_string("PublicKey")
