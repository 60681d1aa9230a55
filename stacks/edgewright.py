"""All stacks of a stage."""

from constructs import Construct

from config.stage import Stage
from stacks.edge_server_stack import EdgeServerStack
from stacks.fleet_stack import FleetStack
from stacks.identity_stack import IdentityStack
from stacks.inference_stack import InferenceStack
from stacks.model_stack import ModelStack
from stacks.observability_stack import ObservabilityStack
from stacks.pipeline_stack import PipelineStack
from stacks.provisioning_stack import ProvisioningStack
from stacks.stage_stack import StageStack
from stacks.storage_stack import StorageStack


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
    models = [
        ModelStack(
            app,
            f"Model{storage.names.model_package(model.folder)}",
            stage=stage,
            model=model,
            storage=storage,
            identity=identity,
        )
        for model in stage.models
    ]
    inference = InferenceStack(app, "Inference", stage=stage, storage=storage, fleet=fleet, models=models)
    observability = ObservabilityStack(app, "Observability", stage=stage, storage=storage)
    # A destroy takes the deployment away while the server can still be told.
    inference.needs(server)
    if stage.pipeline:
        stacks: list[StageStack] = [storage, identity, fleet, provisioning, server, *models, inference, observability]
        PipelineStack(
            app,
            "Pipeline",
            stage=stage,
            pipeline=stage.pipeline,
            storage=storage,
            stacks=[stack.node.id for stack in stacks],
        )
