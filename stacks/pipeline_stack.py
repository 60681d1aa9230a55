"""For those who stay inside AWS: a pipeline that checks and deploys a stage, if its file has `[pipeline]`."""

from collections.abc import Sequence

from constructs import Construct

from config.delivery import Pipeline
from config.stage import Stage
from edge_constructs.deploy_pipeline import DeployPipeline, deploying
from stacks.stage_stack import StageStack
from stacks.storage_stack import StorageStack


class PipelineStack(StageStack):
    """The pipeline of one stage.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        pipeline: Its `[pipeline]`.
        storage: Where steps hand over what they made.
        stacks: Ids of the stacks that the pipeline deploys.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        pipeline: Pipeline,
        storage: StorageStack,
        stacks: Sequence[str],
    ) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="pipeline", description="Edgewright: checks and deploys the stage"
        )
        DeployPipeline(
            self,
            "Pipeline",
            name=self.names.pipeline,
            connection_arn=pipeline.connection_arn,
            repository=pipeline.repository,
            branch=pipeline.branch,
            stage=stage.name,
            stacks=stacks,
            bucket=storage.artifacts,
            key=storage.key,
            deployer=deploying(self.synthesizer.bootstrap_qualifier or "", stage.region),
            approval=pipeline.approval,
        )
        self.needs(storage)
