"""Everything that outlives a deployment: the key and the artifacts."""

from constructs import Construct

from config.stage import Stage
from edge_constructs.artifact_store import ArtifactBucket, ArtifactStore, EncryptionKey, SigningKey
from edge_constructs.permission import ACCOUNT
from stacks.stage_stack import StageStack


class StorageStack(StageStack):
    """The stage's key, its artifact bucket and the way into it.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="storage", description="Edgewright: key and artifacts")
        self.key = EncryptionKey(self, "Key", retain=stage.retain)
        self.signing_key = SigningKey(self, "SigningKey", retain=stage.retain)
        self.artifacts = ArtifactBucket(
            self,
            "Artifacts",
            name=self.names.artifact_bucket(ACCOUNT, stage.region),
            log_name=self.names.access_log_bucket(ACCOUNT, stage.region),
            key=self.key,
            retain=stage.retain,
        )
        self.store = ArtifactStore(
            self, "Store", bucket=self.artifacts, retain=stage.retain, bootstrap_key=stage.bootstrap.customer_key
        )
