"""The devices: what they are, the groups that deployments reach, the register of them, their runtime, how they join."""

from aws_cdk import aws_iot as iot
from constructs import Construct

from config.fleet import RINGS
from config.stage import Stage
from edge_constructs.device_registry import Clients, DeviceRegistry, SageMakerFleet
from edge_constructs.edge_assets import runtime_archive
from edge_constructs.fleet_provisioning import FleetProvisioning
from edge_constructs.identities import ClientDevicePolicy
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StageStack, StorageStack, build_folder


class FleetStack(StageStack):
    """Thing type, a thing group a ring and the devices in them, the edge server included.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        identity: Its policy outlives the certificates that it is attached to.
        storage: Takes the runtime's archive, and what the devices of a SageMaker fleet send.

    Raises:
        MissingAssetError: Set-up has not made the runtime's wheels.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: Stage, identity: IdentityStack, storage: StorageStack
    ) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="fleet", description="Edgewright: things and groups")
        names = self.names
        thing_type = iot.CfnThingType(self, "ThingType", thing_type_name=names.thing_type)
        groups = {
            ring: iot.CfnThingGroup(
                self,
                "ThingGroup" if ring == "all" else f"{ring.title()}ThingGroup",
                thing_group_name=names.ring_group(ring),
            )
            for ring in RINGS
        }
        self.ring_arns = {ring: group.attr_arn for ring, group in groups.items()}
        clients = self._clients(stage)
        registry = DeviceRegistry(
            self,
            "Registry",
            rings={ring: names.ring_group(ring) for ring in RINGS},
            thing_type=names.thing_type,
            policy=names.iot_policy,
            devices=stage.cores,
            folder=build_folder(self),
            bootstrap_key=stage.bootstrap.customer_key,
            clients=clients,
        )
        if clients:
            registry.clients.node.add_dependency(*self._of_clients)
        registry.resource.node.add_dependency(thing_type, *groups.values())
        if stage.fleet.registry == "sagemaker":
            SageMakerFleet(
                self,
                "SageMaker",
                name=names.device_fleet,
                registry=registry,
                role_arn=identity.compiler.role_arn,
                output_uri=f"s3://{storage.artifacts.name}/captures/",
                key_arn=storage.key.key.key_arn,
                bootstrap_key=stage.bootstrap.customer_key,
            )
        # By far the largest artifact: it is on its way while models are compiled, not when everything waits for it.
        self.runtime = runtime_archive(
            stage.runtime.python,
            stage.runtime.architecture,
            build_folder(self),
            agent=stage.agent.enabled,
            accelerator=stage.runtime.accelerator,
        )
        file, sha256 = self.runtime.file, self.runtime.sha256
        storage.store.publish(self, "RuntimeArtifact", file=file, sha256=sha256, prefix="artifacts")
        self.runtime_uri = storage.store.uri(file=file, sha256=sha256, prefix="artifacts")
        self.needs(identity)

    def _clients(self, stage: Stage) -> Clients | None:
        """Type, group and policy of the client devices, if the stage has some."""
        if not stage.client_devices:
            return None
        names = self.names
        # Here and not with the other policy: when the table goes, certificates go before it, in the same update.
        policy = ClientDevicePolicy(
            self, "ClientPolicy", name=names.client_policy, things=stage.client_devices.selection
        )
        self._of_clients = (
            policy.resource,
            iot.CfnThingType(self, "ClientType", thing_type_name=names.client_type),
            iot.CfnThingGroup(self, "ClientGroup", thing_group_name=names.client_group),
        )
        listed = stage.client_devices.names
        return Clients(listed, names.client_group, names.client_type, names.client_policy)


class ProvisioningStack(StageStack):
    """Provisioning by claim, and fleet indexing; a stack of its own, because nothing waits for it.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        fleet: Its register decides who may join; a destroy stops devices from joining before it takes them away.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, fleet: FleetStack) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="provisioning", description="Edgewright: provisioning")
        groups = [self.names.client_group] if stage.client_devices else []
        FleetProvisioning(self, "Provisioning", names=self.names, more_groups=groups)
        self.needs(fleet)
