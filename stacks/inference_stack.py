"""What devices run: the component versions and the deployment of them."""

import json
from collections.abc import Sequence
from typing import Any

from aws_cdk import CfnParameter
from constructs import Construct

from config.roster import RINGS
from config.stage import Stage
from edge_constructs.component import Component, component_version
from edge_constructs.component_sweep import ComponentSweep
from edge_constructs.edge_assets import (
    INFERENCE_RECIPE,
    MODEL_RECIPE,
    RUNTIME_RECIPE,
    inference_archive,
    runtime_archive,
)
from edge_constructs.fleet_deployment import FleetDeployment
from stacks.fleet_stack import FleetStack
from stacks.model_stack import ModelStack
from stacks.stage_stack import StageStack, build_folder
from stacks.storage_stack import StorageStack

_ANY_VERSION = ">=1.0.0 <2.0.0"


class InferenceStack(StageStack):
    """Runtime, models and inference code as components, deployed to each ring.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: Where the artifacts go.
        fleet: The target.
        models: What is to be served.

    Raises:
        MissingAssetError: Set-up has not made the runtime's wheels.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        storage: StorageStack,
        fleet: FleetStack,
        models: Sequence[ModelStack],
    ) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="inference", description="Edgewright: components and deployment"
        )
        self._store = storage.store
        sweep = ComponentSweep(
            self,
            "Sweep",
            components=f"edgewright.{stage.name}.",
            rings={ring: self.names.ring_group(ring) for ring in RINGS},
        )
        runtime = self._runtime(stage)
        runtime.resource.node.add_dependency(sweep.resource)
        components = [runtime]
        for model in models:
            components.append(self._model(model, after=components[-1]))
        components.append(self._inference(models, after=components[-1]))
        for ring in RINGS:
            FleetDeployment(
                self,
                "Deployment" if ring == "all" else f"{ring.title()}Deployment",
                name=self.names.ring_group(ring),
                target_arn=fleet.ring_arns[ring],
                components=components,
                rollout=stage.rollout,
                configuration={
                    self._full_name(component): json.dumps(merge)
                    for component, merge in stage.configuration.get(ring, {}).items()
                },
            )
        self.needs(storage, fleet, *models)

    def _full_name(self, component: str) -> str:
        """Name of the component that a stage's file calls `inference`."""
        return {"inference": self.names.inference_component}[component]

    def _runtime(self, stage: Stage) -> Component:
        archive = runtime_archive(stage.runtime.python, stage.runtime.architecture, build_folder(self))
        values = {"COMPONENT": self.names.runtime_component}
        return Component(
            self,
            "Runtime",
            name=self.names.runtime_component,
            version=component_version(RUNTIME_RECIPE, values, [archive.sha256]),
            recipe=RUNTIME_RECIPE,
            values=values,
            artifact_uri=self._store.publish(
                self, "RuntimeArtifact", file=archive.file, sha256=archive.sha256, prefix="artifacts"
            ),
        )

    def _model(self, model: ModelStack, *, after: Component) -> Component:
        name = model.source.name
        package = self.names.model_package(name)
        uri = CfnParameter(
            self,
            f"{package}PackageUri",
            type="AWS::SSM::Parameter::Value<String>",
            default=self.names.model_parameter(name),
            description=f"Where the package of the model {name} lies",
        )
        return Component(
            self,
            f"{package}Model",
            name=self.names.model_component(name),
            version=model.version,
            recipe=MODEL_RECIPE,
            values=model.recipe_values,
            artifact_uri=uri.value_as_string,
            after=after,
        )

    def _inference(self, models: Sequence[ModelStack], *, after: Component) -> Component:
        archive = inference_archive(build_folder(self))
        names = [model.source.name for model in models]
        values = {
            "COMPONENT": self.names.inference_component,
            "RUNTIME": self.names.runtime_component,
            "MODELS": {model.source.name: self._served(model) for model in models},
            "REQUEST_TOPICS": [self.names.request_topic(name) for name in names],
            "RESPONSE_TOPICS": [self.names.response_topic(name) for name in names],
            "DEPENDENCIES": {
                component: {"VersionRequirement": _ANY_VERSION, "DependencyType": "SOFT"}
                for component in (self.names.runtime_component, *map(self.names.model_component, names))
            },
        }
        return Component(
            self,
            "Inference",
            name=self.names.inference_component,
            version=component_version(INFERENCE_RECIPE, values, [archive.sha256]),
            recipe=INFERENCE_RECIPE,
            values=values,
            artifact_uri=self._store.publish(
                self, "InferenceArtifact", file=archive.file, sha256=archive.sha256, prefix="artifacts"
            ),
            after=after,
        )

    def _served(self, model: ModelStack) -> dict[str, Any]:
        """The inference component's configuration of one model."""
        name = model.source.name
        return {
            "component": self.names.model_component(name),
            "requestTopic": self.names.request_topic(name),
            "responseTopic": self.names.response_topic(name),
            "topK": model.source.declaration.get("topK", 3),
        }
