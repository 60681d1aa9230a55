"""The archive of a model that devices download."""

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration, Size
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.signing_key import SigningKey
from edge_handlers import model_package

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
