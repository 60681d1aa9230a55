"""Where artifacts are kept: the keys that encrypt and sign, the bucket with its access log, the way into it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from aws_cdk import Duration, FileAssetLocation, FileAssetPackaging, Fn, RemovalPolicy, Stack, Stage, Tags
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import ACCOUNT, REGION, Permission, acknowledge, arn
from edge_handlers import artifact_copy, bucket_sweep


def kept(retain: bool) -> RemovalPolicy:
    """What becomes of a stateful resource at a destroy.

    Args:
        retain: Whether it stays; then one of a deploy that fails and is rolled back goes all the same: it is empty, and
            a name that stays taken would stop the next deploy.
    """
    return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain else RemovalPolicy.DESTROY


class EncryptionKey(Construct):
    """A rotated key that the account's IAM policies alone give access to.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        retain: Whether a destroy keeps the key; otherwise its deletion is scheduled for the shortest time, 7 days.
    """

    def __init__(self, scope: Construct, construct_id: str, *, retain: bool) -> None:
        super().__init__(scope, construct_id)
        self.key = kms.Key(
            self,
            "Resource",
            description="Edgewright's artifacts",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=kept(retain),
        )

    def reading(self) -> Sequence[Permission]:
        """What a role needs to read encrypted objects."""
        return [Permission(actions=("kms:Decrypt",), resources=(self.key.key_arn,))]

    def writing(self) -> Sequence[Permission]:
        """What a role needs to write encrypted objects and read them back."""
        return [Permission(actions=("kms:Decrypt", "kms:GenerateDataKey"), resources=(self.key.key_arn,))]

    def adding(self) -> Sequence[Permission]:
        """What a role needs to write encrypted objects in one piece, and no more."""
        return [Permission(actions=("kms:GenerateDataKey",), resources=(self.key.key_arn,))]


class SigningKey(Construct):
    """An asymmetric key of the curve P-256, which devices can check without calling AWS.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        retain: Whether a destroy keeps the key; otherwise its deletion is scheduled for the shortest time, 7 days.
    """

    def __init__(self, scope: Construct, construct_id: str, *, retain: bool) -> None:
        super().__init__(scope, construct_id)
        self.key = kms.Key(
            self,
            "Resource",
            description="Signs Edgewright's model packages",
            key_spec=kms.KeySpec.ECC_NIST_P256,
            key_usage=kms.KeyUsage.SIGN_VERIFY,
            pending_window=Duration.days(7),
            removal_policy=kept(retain),
        )
        self.arn = self.key.key_arn

    def signing(self) -> Sequence[Permission]:
        """What a role needs to sign, and to tell devices the public half."""
        return [Permission(actions=("kms:Sign", "kms:GetPublicKey"), resources=(self.arn,))]


ACCESS_LOG_DAYS = 90
_REPLICATION = "NIST.800.53.R5-S3BucketReplicationEnabled"
_FINDINGS = {_REPLICATION: "every artifact can be built again from this repository, under the same key"}
_LOG_FINDINGS = {
    "S1": "this bucket holds the access log: logging it would log itself for ever",
    _REPLICATION: f"the access log is for looking into incidents here, and kept for {ACCESS_LOG_DAYS} days only",
    "NIST.800.53.R5-S3BucketVersioningEnabled": "the log delivery writes each object once and nobody may write another",
    "NIST.800.53.R5-S3DefaultEncryptionKMS": "the log delivery service cannot use a customer's key; S3's own encrypts",
}
#: Keys of what devices capture: inputs and results that are looked at for drift, and seldom later.
CAPTURES = "captures/"
#: Keys of the results that the rules engine stores: `results/model=<model>/day=<day>/<device>/<id>.json`.
RESULTS = "results/"
#: Keys of heartbeats with a candidate's sketch: `promotions/<model>/<device>.json`, each over the one before.
PROMOTIONS = "promotions/"
CAPTURE_COLD_DAYS = 90
CAPTURE_DAYS = 365
#: A decision takes an hour at most and passes over what is older than its deployment; a rollback reads none of it.
PROMOTION_DAYS = 30
#: Artifacts are content-addressed: an old version is only what was overwritten or deleted by mistake.
OLD_VERSION_DAYS = 30


class ArtifactBucket(Construct):
    """A private, versioned, encrypted bucket that speaks TLS only and logs access to a second one.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Physical name: recipes on devices refer to it.
        log_name: Physical name of the second bucket.
        key: Encrypts every object.
        retain: Whether a destroy keeps both buckets; otherwise they must be swept before they are deleted.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, name: str, log_name: str, key: EncryptionKey, retain: bool
    ) -> None:
        super().__init__(scope, construct_id)
        self.name = name
        self.log_name = log_name
        self._key = key
        removal = kept(retain)
        self.access_logs = s3.Bucket(
            self,
            "AccessLogs",
            bucket_name=log_name,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,  # the log delivery service cannot use a customer's key
            enforce_ssl=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(ACCESS_LOG_DAYS))],
            removal_policy=removal,
        )
        acknowledge(self.access_logs, _LOG_FINDINGS)
        self.bucket = s3.Bucket(
            self,
            "Resource",
            bucket_name=name,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.KMS,
            encryption_key=key.key,
            bucket_key_enabled=True,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            server_access_logs_bucket=self.access_logs,
            server_access_logs_prefix="artifacts/",
            lifecycle_rules=_lifecycle(),
            removal_policy=removal,
        )
        acknowledge(self.bucket, _FINDINGS)
        _refuse_foreign_encryption(self.bucket, key)

    @property
    def arn(self) -> str:
        """ARN composed of the name, so that other stacks need no export of it."""
        return bucket_arn(self.name)

    def reading(self, *prefixes: str, actions: tuple[str, ...] = ("s3:GetObject",)) -> Sequence[Permission]:
        """What a role needs to read objects.

        Args:
            prefixes: Key prefixes with a trailing `/`.
            actions: Object actions.
        """
        return [self._objects(actions, prefixes), *self._key.reading()]

    def writing(
        self, *prefixes: str, actions: tuple[str, ...] = ("s3:GetObject", "s3:PutObject")
    ) -> Sequence[Permission]:
        """What a role needs to write objects and read them back.

        Args:
            prefixes: Key prefixes with a trailing `/`.
            actions: Object actions.
        """
        return [self._objects(actions, prefixes), *self._key.writing()]

    def adding(self, prefix: str) -> Sequence[Permission]:
        """What a role needs to write objects in one piece, and no more.

        Args:
            prefix: Key prefix with a trailing `/`.
        """
        return [self._objects(("s3:PutObject",), (prefix,)), *self._key.adding()]

    def access(self, *, reads: Sequence[str], writes: Sequence[str]) -> Sequence[Permission]:
        """What a role needs that reads some objects and writes others, without a statement twice.

        Args:
            reads: Key prefixes with a trailing `/`.
            writes: Key prefixes with a trailing `/`; they may be read, too, and an upload in parts ended.
        """
        return [
            self._objects(("s3:GetObject",), (*reads, *writes)),
            self._objects(("s3:PutObject", "s3:AbortMultipartUpload"), tuple(writes)),
            *self._key.writing(),
        ]

    def listing(self) -> Permission:
        """What a role needs so that a missing key answers 404, not 403."""
        return Permission(actions=("s3:ListBucket",), resources=(self.arn,))

    def _objects(self, actions: tuple[str, ...], prefixes: tuple[str, ...]) -> Permission:
        return Permission(
            actions=actions,
            resources=tuple(f"{self.arn}/{prefix}*" for prefix in prefixes),
            wildcard_reason="keys below this prefix are content-addressed: they are not known before they are written",
        )


def bucket_arn(name: str) -> str:
    """Compose the ARN of a bucket."""
    return arn("s3", name, region="", account="")


def _lifecycle() -> list[s3.LifecycleRule]:
    """What leaves the bucket by itself; current artifacts stay, because a device may be offline for months."""
    old = Duration.days(OLD_VERSION_DAYS)
    cold = [
        s3.Transition(storage_class=s3.StorageClass.INFREQUENT_ACCESS, transition_after=Duration.days(30)),
        s3.Transition(
            storage_class=s3.StorageClass.GLACIER_INSTANT_RETRIEVAL, transition_after=Duration.days(CAPTURE_COLD_DAYS)
        ),
    ]
    return [
        s3.LifecycleRule(id="uploads-that-never-ended", abort_incomplete_multipart_upload_after=Duration.days(7)),
        s3.LifecycleRule(id="old-versions", noncurrent_version_expiration=old, expired_object_delete_marker=True),
        s3.LifecycleRule(id="results", prefix=RESULTS, expiration=Duration.days(CAPTURE_DAYS)),
        s3.LifecycleRule(id="captures", prefix=CAPTURES, transitions=cold, expiration=Duration.days(CAPTURE_DAYS)),
        s3.LifecycleRule(id="promotions", prefix=PROMOTIONS, expiration=Duration.days(PROMOTION_DAYS)),
    ]


def _refuse_foreign_encryption(bucket: s3.Bucket, key: EncryptionKey) -> None:
    """Deny uploads that name another kind of encryption or another key; without a header the bucket's own applies."""
    header = "s3:x-amz-server-side-encryption"
    for sid, name, wanted in (
        ("OnlyKms", header, "aws:kms"),
        ("OnlyThisKey", f"{header}-aws-kms-key-id", key.key.key_arn),
    ):
        bucket.add_to_resource_policy(
            iam.PolicyStatement(
                sid=sid,
                effect=iam.Effect.DENY,
                principals=[iam.AnyPrincipal()],
                actions=["s3:PutObject"],
                resources=[bucket.arn_for_objects("*")],
                # A negated operator alone would deny a request without the header, too.
                conditions={"StringNotEquals": {name: wanted}, "Null": {name: "false"}},
            )
        )


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
