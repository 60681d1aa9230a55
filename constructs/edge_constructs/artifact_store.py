"""Publishes files into the artifact bucket under keys made of their content."""

import os
from pathlib import Path
from typing import cast

from aws_cdk import Duration, FileAssetLocation, FileAssetPackaging, Fn, RemovalPolicy, Stack, Stage, Tags
from constructs import Construct

from edge_constructs.artifact_bucket import ArtifactBucket, bucket_arn
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import ACCOUNT, REGION, Permission
from edge_handlers import artifact_copy, bucket_sweep

#: The sweep leaves a bucket without this tag alone, so that switching to `retain` empties nothing.
DISPOSABLE_TAG = "edgewright:disposable"


class ArtifactStore(Construct):
    """Copies the CDK's assets into the artifact bucket, and empties the bucket when it is to be deleted.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Where the artifacts go.
        retain: Whether a destroy keeps the bucket; then there is no sweep.
        bootstrap_key: Whether the CDK's bootstrap bucket is encrypted with a key of the account's own, as
            `cdk bootstrap --bootstrap-customer-key` makes one.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, bucket: ArtifactBucket, retain: bool, bootstrap_key: bool = False
    ) -> None:
        super().__init__(scope, construct_id)
        self._bucket = bucket
        self._copies = HandlerProvider(
            self,
            "Copy",
            handler=artifact_copy,
            permissions=[
                *asset_reading(self, bootstrap_key=bootstrap_key),
                bucket.listing(),
                *bucket.writing(
                    "artifacts/",
                    "sources/",
                    actions=("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"),
                ),
            ],
            memory_mb=512,
        )
        if not retain:
            self._sweep()

    def publish(self, scope: Construct, construct_id: str, *, file: Path, sha256: str, prefix: str) -> str:
        """Copy a file to `<prefix>/<sha256>/<file name>`, verified.

        Args:
            scope: Parent construct of the copy, in any stack that depends on this one.
            construct_id: Id below it.
            file: The file, which must stay until the deploy.
            sha256: Its digest.
            prefix: `artifacts`, or `sources/<model>`.

        Returns:
            The S3 URI, known once the copy is there.
        """
        asset = file_asset(scope, file, sha256)
        copy = self._copies.resource(
            scope,
            construct_id,
            artifact_copy.ArtifactCopy(
                source_bucket=asset.bucket_name,
                source_key=asset.object_key,
                destination_bucket=self._bucket.name,
                destination_key=f"{prefix}/{sha256}/{file.name}",
                sha256=sha256,
            ),
        )
        # A deletion does nothing (the sweep empties the bucket), so that the stack of a model that was taken out can be
        # destroyed when this one, whose function would be asked, is gone.
        copy.apply_removal_policy(RemovalPolicy.RETAIN)
        return copy.get_att_string("Uri")

    def uri(self, *, file: Path, sha256: str, prefix: str) -> str:
        """Where `publish` puts a file, for a stack that is deployed after the one that publishes it.

        An exported location could not change as long as another stack imports it.

        Args:
            file: The file.
            sha256: Its digest.
            prefix: As for `publish`.
        """
        return f"s3://{self._bucket.name}/{prefix}/{sha256}/{file.name}"

    def _sweep(self) -> None:
        buckets = {"Artifacts": self._bucket.bucket, "AccessLogs": self._bucket.access_logs}
        arns = [bucket_arn(name) for name in (self._bucket.name, self._bucket.log_name)]
        sweep = HandlerProvider(
            self,
            "Sweep",
            handler=bucket_sweep,
            permissions=[
                Permission(("s3:ListBucketVersions", "s3:GetBucketTagging"), tuple(arns)),
                Permission(
                    actions=("s3:DeleteObject", "s3:DeleteObjectVersion"),
                    resources=tuple(f"{arn}/*" for arn in arns),
                    wildcard_reason="the sweep empties the whole bucket, which is deleted next",
                ),
            ],
            limit=Duration.minutes(15),
        )
        sweeps = {}
        for construct_id, bucket in buckets.items():
            Tags.of(bucket).add(DISPOSABLE_TAG, "true")
            sweeps[construct_id] = sweep.resource(
                self,
                f"{construct_id}Sweep",
                bucket_sweep.BucketSweep(bucket.bucket_name, DISPOSABLE_TAG),
            )
        # Deletion runs backwards: the log is emptied when the bucket that fills it is gone.
        self._bucket.bucket.node.add_dependency(sweeps["AccessLogs"])


def asset_reading(scope: Construct, *, bootstrap_key: bool) -> list[Permission]:
    """What reading the CDK's assets takes.

    Args:
        scope: Whose stack's assets.
        bootstrap_key: Whether the bootstrap stack's own key encrypts them; that stack exports the key's ARN.
    """
    qualifier = Stack.of(scope).synthesizer.bootstrap_qualifier
    objects = Permission(
        actions=("s3:GetObject",),
        resources=(bucket_arn(f"cdk-{qualifier}-assets-{ACCOUNT}-{REGION}/*"),),
        wildcard_reason="the keys of CDK assets are content hashes, which change with every build",
    )
    if not bootstrap_key:
        return [objects]
    key = Fn.import_value(f"CdkBootstrap-{qualifier}-FileAssetKeyArn")
    return [objects, Permission(("kms:Decrypt",), (key,))]


def file_asset(scope: Construct, file: Path, sha256: str) -> FileAssetLocation:
    """Make a file that lies in the assembly's build folder an asset of the scope's stack.

    Args:
        scope: Whose stack's asset.
        file: The file, which must stay until the deploy.
        sha256: Its digest.
    """
    # Relative to the assembly, so that it can be moved, and whether its folder was given relative or absolute.
    name = os.path.relpath(file, cast("Stage", Stage.of(scope)).asset_outdir)
    return Stack.of(scope).synthesizer.add_file_asset(
        source_hash=sha256, file_name=name, packaging=FileAssetPackaging.FILE, display_name=file.name
    )
