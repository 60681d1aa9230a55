"""What all stacks of a stage have in common, and the storage that they share: it outlives a deployment."""

from pathlib import Path
from typing import cast

import aws_cdk as cdk
from constructs import Construct

from config.names import Names
from config.stage import Stage
from edge_constructs.artifact_store import ArtifactBucket, ArtifactStore, EncryptionKey, SigningKey
from edge_constructs.permission import ACCOUNT


class StageStack(cdk.Stack):
    """A stack of one stage: named after it, in its region, in the account of whoever deploys.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        kind: What the stack is for, part of its name.
        description: One sentence for the console.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, kind: str, description: str) -> None:
        self.names = Names(stage.name)
        super().__init__(
            scope,
            construct_id,
            stack_name=self.names.stack(kind),
            description=description,
            env=cdk.Environment(region=stage.region),
            tags=stage_tags(stage),
        )

    def needs(self, *stacks: cdk.Stack) -> None:
        """Deploy after other stacks, and destroy before them."""
        for stack in stacks:
            self.add_stack_dependency(stack)


def stage_tags(stage: Stage) -> dict[str, str]:
    """What marks everything of a stage, in CloudFormation and where CloudFormation does not reach."""
    return {"edgewright:stage": stage.name}


def build_folder(scope: Construct) -> Path:
    """Folder in the assembly for archives that are made during synth."""
    assembly = cast("cdk.Stage", cdk.Stage.of(scope))  # an app is a stage, so there always is one
    return Path(assembly.asset_outdir) / "artifacts"


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
