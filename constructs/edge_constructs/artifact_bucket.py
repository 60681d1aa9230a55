"""The bucket of all artifacts, with the log of who touched them."""

from collections.abc import Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_s3 as s3
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.encryption_key import EncryptionKey
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
        removal = RemovalPolicy.RETAIN if retain else RemovalPolicy.DESTROY
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
            lifecycle_rules=[s3.LifecycleRule(abort_incomplete_multipart_upload_after=Duration.days(7))],
            removal_policy=removal,
        )
        acknowledge(self.bucket, _FINDINGS)

    @property
    def arn(self) -> str:
        """ARN composed of the name, so that other stacks need no export of it."""
        return bucket_arn(self.name)

    def reading(self, *prefixes: str) -> Sequence[Permission]:
        """What a role needs to read objects.

        Args:
            prefixes: Key prefixes with a trailing `/`.
        """
        return [self._objects(("s3:GetObject",), prefixes), *self._key.reading()]

    def writing(
        self, *prefixes: str, actions: tuple[str, ...] = ("s3:GetObject", "s3:PutObject")
    ) -> Sequence[Permission]:
        """What a role needs to write objects and read them back.

        Args:
            prefixes: Key prefixes with a trailing `/`.
            actions: Object actions.
        """
        return [self._objects(actions, prefixes), *self._key.writing()]

    def listing(self) -> Permission:
        """What a role needs so that a missing key answers 404, not 403."""
        return Permission(actions=("s3:ListBucket", "s3:GetBucketLocation"), resources=(self.arn,))

    def _objects(self, actions: tuple[str, ...], prefixes: tuple[str, ...]) -> Permission:
        return Permission(
            actions=actions,
            resources=tuple(f"{self.arn}/{prefix}*" for prefix in prefixes),
            wildcard_reason="keys below this prefix are content-addressed: they are not known before they are written",
        )


def bucket_arn(name: str) -> str:
    """Compose the ARN of a bucket."""
    return arn("s3", name, region="", account="")
