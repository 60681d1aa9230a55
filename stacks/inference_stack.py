"""What devices run: the component versions and the deployment of them."""

from collections.abc import Sequence
from typing import Any

from aws_cdk import CfnParameter
from constructs import Construct

from config.edge_server import CPU
from config.fleet import RINGS, Ring
from config.model import local_result_topics, result_topics, serving
from config.routes import Handler
from config.stage import Stage
from edge_constructs.component_library import (
    Component,
    ComponentLibrary,
    component_version,
    local_access,
    soft_dependencies,
)
from edge_constructs.device_registry import ClientAssociations
from edge_constructs.edge_assets import (
    INFERENCE_RECIPE,
    MODEL_RECIPE,
    RUNTIME_RECIPE,
    Archive,
    inference_archive,
)
from edge_constructs.fleet_deployment import DeploymentHealth, FleetDeployment, merged_settings
from edge_constructs.handler_component import HandlerComponent
from edge_constructs.permission import ACCOUNT
from stacks.device_stacks import EdgeServerStack, FleetStack
from stacks.models_stack import ModelsStack, PackagedModel
from stacks.stage_stack import StageStack, StorageStack, build_folder, stage_tags


class InferenceStack(StageStack):
    """Runtime, models and inference code as components, deployed to each ring.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: Where the artifacts go.
        fleet: The target.
        server: A new one is sent the deployment of its ring anew.
        models: What is to be served.

    Raises:
        MissingAssetError: Set-up has not made the runtime's wheels, or the packages of a handler.
        HandlerDeclarationError: A handler cannot be deployed as it is declared.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        storage: StorageStack,
        fleet: FleetStack,
        server: EdgeServerStack,
        models: ModelsStack,
    ) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="inference", description="Edgewright: components and deployment"
        )
        self._store, self._artifacts = storage.store, storage.artifacts
        self._model_versions = {model.name: model.version for model in models.models}
        self._library = ComponentLibrary(
            self,
            "Components",
            components=f"edgewright.{stage.name}.",
            rings={ring: self.names.ring_group(ring) for ring in RINGS},
            bucket=storage.artifacts,
            tags=stage_tags(stage),
        )
        components = [self._runtime(stage, fleet)]
        for model in models.models:
            components.append(self._model(model, after=components[-1]))
        components.append(self._inference(stage, after=components[-1]))
        for handler in stage.handlers:
            components.append(self._handler(stage, handler, fleet.runtime, after=components[-1]))
        self._roll_out(stage, fleet, server, components, self._signing_key())
        # A destroy takes the deployment away while the server can still be told.
        self.needs(storage, fleet, server, models)

    def _roll_out(
        self,
        stage: Stage,
        fleet: FleetStack,
        server: EdgeServerStack,
        components: Sequence[Component],
        signing_key: str,
    ) -> None:
        """Deploy to one ring after the other, each when the one before is healthy."""
        targets = [fleet.ring_arns[ring] for ring in RINGS]
        health = (
            DeploymentHealth(
                self,
                "Health",
                health=stage.health,
                target_arns=targets,
                promotion=stage.promotion,
                bucket=self._artifacts,
            )
            if stage.health.rings
            else None
        )
        before: Construct | None = None
        of_server = stage.fleet.ring_of(self.names.edge_server)
        for ring in RINGS:
            deployment = FleetDeployment(
                self,
                "Deployment" if ring == "all" else f"{ring.title()}Deployment",
                name=self.names.deployment(ring, server.fingerprint if ring == of_server else ""),
                target_arn=fleet.ring_arns[ring],
                components=components,
                rollout=stage.rollout,
                settings=self._settings(stage, ring, signing_key),
                carrier=self.names.runtime_component,
                public=self._public(stage, ring),
            )
            if before:
                deployment.resource.node.add_dependency(before)
            before = deployment.resource
            if health and ring in stage.health.rings:
                # It has told CloudFormation that it is a core device, so its first report is on the way.
                expected = [self.names.edge_server] if ring == of_server else []
                before = health.wait_for(
                    ring.title(), deployment, ring=ring, expected=expected, models=self._model_versions
                )
        if stage.client_devices:
            associations = ClientAssociations(
                self,
                "ClientDevices",
                group=self.names.client_group,
                associations=stage.client_devices.associations,
                folder=build_folder(self),
                bootstrap_key=stage.bootstrap.customer_key,
            )
            if before:
                # Those that are to be discovered have joined by now.
                associations.resource.node.add_dependency(before)

    def _public(self, stage: Stage, ring: Ring) -> dict[str, dict[str, Any]]:
        """AWS's components for client devices, where a core device of the ring has some."""
        if not stage.client_devices:
            return {}
        by_core = stage.client_devices.associations
        names = sorted({name for core, each in by_core.items() if stage.cores[core] == ring for name in each})
        return stage.client_devices.components(stage.wiring.bridged, names) if names else {}

    def _settings(self, stage: Stage, ring: Ring, signing_key: str) -> dict[str, dict[str, Any]]:
        """Component to settings of the ring's devices that win over its own."""
        merged = {**stage.configuration.get(ring, {}).get("inference", {}), "signingKey": signing_key}
        if ring in stage.promotion.rings:
            # Nobody is approved before it has shown what it can; what answers already goes on.
            trial = {"approvedVersion": "none", "candidateMegabytes": stage.promotion.memory_mb}
            merged = merged_settings(merged, {"models": {model.folder: trial for model in stage.models}})
        return {self.names.inference_component: merged}

    def _runtime(self, stage: Stage, fleet: FleetStack) -> Component:
        values = {"COMPONENT": self.names.runtime_component, "NUCLEUS": stage.recipe_runtime}
        return Component(
            self,
            "Runtime",
            library=self._library,
            name=self.names.runtime_component,
            version=component_version(RUNTIME_RECIPE, values, [fleet.runtime.sha256, *stage.version_parts]),
            recipe=RUNTIME_RECIPE,
            values=values,
            artifact_uri=fleet.runtime_uri,
        )

    def _model(self, model: PackagedModel, *, after: Component) -> Component:
        return Component(
            self,
            f"{self.names.model_package(model.name)}Model",
            library=self._library,
            name=self.names.model_component(model.name),
            version=model.version,
            recipe=MODEL_RECIPE,
            values=model.recipe_values,
            artifact_uri=model.package.uri,
            after=after,
        )

    def _signing_key(self) -> str:
        """The public key of every package; known at the deploy only, so it is configuration and no part of a recipe."""
        return CfnParameter(
            self,
            "SigningKey",
            type="AWS::SSM::Parameter::Value<String>",
            default=self.names.signing_key_parameter,
            description="The public key that model packages are signed with",
        ).value_as_string

    def _inference(self, stage: Stage, *, after: Component) -> Component:
        archive = inference_archive(build_folder(self), agent=stage.agent.enabled)
        names = [model.folder for model in stage.models]
        values = {
            "COMPONENT": self.names.inference_component,
            "RUNTIME": self.names.runtime_component,
            "AGENT": {"enabled": stage.agent.enabled},
            "NUCLEUS": stage.recipe_runtime,
            "EACH_MODEL": {
                "component": self.names.components_of_models,
                "requestTopic": self.names.request_topic("{model}"),
                "responseTopic": self.names.response_topic("{model}"),
            },
            # What a model is allowed follows from its name; what it is served with is no part of the recipe.
            "MODELS": {name: {} for name in names},
            "REQUEST_TOPICS": [self.names.request_topic(name) for name in names],
            "RESPONSE_TOPICS": result_topics(self.names, stage.models),
            "LOCAL_ACCESS": local_access(
                self.names.inference_component,
                subscribe=[self.names.request_topic(model.folder) for model in stage.models if model.local],
                publish=local_result_topics(self.names, stage.models),
            ),
            "HEARTBEAT_TOPIC": self.names.heartbeat_topic,
            "CAPTURE_BUCKET": self.names.artifact_bucket("ACCOUNT", stage.region),
            # Not on the models: it follows their pointer files, and nucleus lite's unit has no room for thirty of them.
            "DEPENDENCIES": soft_dependencies([self.names.runtime_component], credentials=True),
        }
        accelerator = stage.runtime.accelerator
        accelerated = {} if accelerator == CPU else {"accelerator": accelerator}
        # The account is known only at the deploy, and a version must not depend on how synth stands in for it.
        version = component_version(INFERENCE_RECIPE, values, [archive.sha256, *stage.version_parts])
        return Component(
            self,
            "Inference",
            library=self._library,
            name=self.names.inference_component,
            version=version,
            recipe=INFERENCE_RECIPE,
            values=values | {"CAPTURE_BUCKET": self.names.artifact_bucket(ACCOUNT, stage.region)},
            artifact_uri=self._store.publish(
                self, "InferenceArtifact", file=archive.file, sha256=archive.sha256, prefix="artifacts"
            ),
            after=after,
            settings={
                "models": {model.folder: {**accelerated, **serving(model, self.names)} for model in stage.models},
                "agent": {"socket": stage.agent.socket},
            },
        )

    def _handler(self, stage: Stage, handler: Handler, wheels: Archive, *, after: Component) -> Component:
        return HandlerComponent(
            self,
            f"{self.names.model_package(handler.name)}Handler",
            name=self.names.handler_component(handler.name),
            handler=handler,
            topics=stage.wiring.handlers[handler.name],
            runtime=self.names.runtime_component,
            python=stage.runtime.python,
            architecture=stage.runtime.architecture,
            wheels=wheels,
            store=self._store,
            library=self._library,
            folder=build_folder(self),
            nucleus=stage.recipe_runtime,
            version_parts=stage.version_parts,
            after=after,
        ).component
