"""The bucket of all artifacts, with the log of who touched them."""

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.encryption_key import EncryptionKey, kept
from edge_constructs.permission import Permission, arn

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
