"""The archive of a model that devices download."""

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration, Size
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket
from edge_constructs.handler_provider import HandlerProvider

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
    ) -> None:
        super().__init__(scope, construct_id)
        prefix = f"models/{model}"
        provider = HandlerProvider(
            self,
            "Handler",
            capability="model_package",
            permissions=[
                *bucket.reading("compiled/", f"sources/{model}/"),
                *bucket.writing(f"{prefix}/", actions=("s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload")),
                bucket.listing(),
            ],
            limit=Duration.minutes(10),
            memory_mb=1024,
            disk=DISK,
        )
        resource = provider.resource(
            self,
            "Package",
            properties={
                "CompiledUri": compiled_uri,
                "SourceUri": source_uri,
                "Bucket": bucket.name,
                "Prefix": prefix,
                "Name": package,
                "Version": version,
                "Manifest": json.dumps(manifest, sort_keys=True),
                "KmsKeyId": key_arn,
            },
        )
        self.uri = resource.get_att_string("Uri")
