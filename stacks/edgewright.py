"""All stacks of a stage, and the pipeline that deploys them, if its file has `[pipeline]`."""

from collections.abc import Sequence

from constructs import Construct

from config.operations import Pipeline
from config.stage import Stage
from stacks.device_stacks import EdgeServerStack, FleetStack, IdentityStack, ProvisioningStack
from stacks.inference_stack import InferenceStack
from stacks.models_stack import ModelsStack
from stacks.observability_stack import ObservabilityStack
from stacks.stage_stack import StageStack, StorageStack


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
        # A tenth of all that a synth imports, and most stages have no pipeline.
        from edge_constructs.deploy_pipeline import DeployPipeline, deploying

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


def define_stacks(app: Construct, stage: Stage) -> None:
    """Define one stage's stacks, each after those that it needs.

    Args:
        app: The app.
        stage: The stage's configuration.

    Raises:
        ModelDeclarationError: A model's folder cannot be used.
        MissingAssetError: Set-up has not made the runtime's wheels.
    """
    storage = StorageStack(app, "Storage", stage=stage)
    identity = IdentityStack(app, "Identity", stage=stage, storage=storage)
    fleet = FleetStack(app, "Fleet", stage=stage, identity=identity, storage=storage)
    provisioning = ProvisioningStack(app, "Provisioning", stage=stage, fleet=fleet)
    server = EdgeServerStack(app, "EdgeServer", stage=stage, storage=storage, identity=identity, fleet=fleet)
    models = ModelsStack(app, "Models", stage=stage, storage=storage, identity=identity)
    inference = InferenceStack(
        app, "Inference", stage=stage, storage=storage, fleet=fleet, server=server, models=models
    )
    observability = ObservabilityStack(app, "Observability", stage=stage, storage=storage)
    if stage.pipeline:
        stacks: list[StageStack] = [storage, identity, fleet, provisioning, server, models, inference, observability]
        PipelineStack(
            app,
            "Pipeline",
            stage=stage,
            pipeline=stage.pipeline,
            storage=storage,
            stacks=[stack.node.id for stack in stacks],
        )
