"""Devices: what each may do, their register and groups, how they join, and the core device on EC2 with its network."""

from collections.abc import Iterable

from aws_cdk import Duration, Tags
from aws_cdk import aws_iot as iot
from constructs import Construct

from config.fleet import RINGS
from config.model import result_topics
from config.names import NUCLEUS_TAG
from config.routes import CLOUD, THING
from config.stage import Stage
from edge_constructs.device_registry import Clients, DeviceRegistry, SageMakerFleet
from edge_constructs.edge_assets import runtime_archive, user_data_script
from edge_constructs.edge_server import EdgeNetwork, EdgeServer, ServerJoin
from edge_constructs.fleet_provisioning import FleetProvisioning
from edge_constructs.identities import (
    THING_NAME,
    ClientDevicePolicy,
    CoreDevicePolicy,
    EdgeInstanceRole,
    SageMakerExecution,
    TokenExchange,
)
from stacks.stage_stack import StageStack, StorageStack, build_folder


class IdentityStack(StageStack):
    """The roles and the policy that devices, the edge server and SageMaker act with.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: What they get access to.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, storage: StorageStack) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="identity", description="Edgewright: roles and policy")
        names, models = self.names, [model.folder for model in stage.models]
        handlers = stage.wiring.handlers.values()
        bridged = stage.wiring.bridged if stage.client_devices else ()
        self.compiler = SageMakerExecution(
            self,
            "Compiler",
            bucket=storage.artifacts,
            in_vpc=any(model.neo.subnets for model in stage.models),
            serves={model.served_from for model in stage.models if model.verify == "endpoint"},
        )
        # Whether a model uses it or not: an export that comes and goes with the last one that does would be refused.
        self.export_value(self.compiler.role_arn)
        TokenExchange(
            self,
            "TokenExchange",
            alias=names.role_alias,
            bucket=storage.artifacts,
            client_devices=stage.client_devices is not None,
        )
        CoreDevicePolicy(
            self,
            "CoreDevice",
            name=names.iot_policy,
            role_alias=names.role_alias,
            namespace=names.topics,
            request_topics=[
                *map(names.request_topic, models),
                *policy_topics(topic for each in handlers for topic in each.subscribe),
                *(topic for topic, source, _ in bridged if source == CLOUD),
            ],
            response_topics=[
                *result_topics(names, stage.models),
                *policy_topics(topic for each in handlers for topic in each.publish),
                *(topic for topic, _, target in bridged if target == CLOUD),
            ],
            client_devices=stage.client_devices is not None,
        )
        self.edge_instance = EdgeInstanceRole(self, "EdgeInstance", join_function=names.join_function)
        self.needs(storage)


def policy_topics(topics: Iterable[str]) -> list[str]:
    """Write handlers' topics as the IoT policy names them.

    Args:
        topics: As the stage declares them.

    Returns:
        The topics, but those of the device's own thing, which are allowed to every device already.
    """
    named = [topic.replace(THING, THING_NAME) for topic in topics]
    return [topic for topic in named if not topic.startswith(f"$aws/things/{THING_NAME}/")]


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


class EdgeServerStack(StageStack):
    """One instance that provisions itself as the stage's edge server.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: Its artifacts are the server's.
        identity: The role that the server provisions itself with.
        fleet: Knows the server's thing, and takes it away after the server.

    Attributes:
        fingerprint: Of the server: another one is another machine, which has nothing of what devices were sent.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        storage: StorageStack,
        identity: IdentityStack,
        fleet: FleetStack,
    ) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="edge-server", description="Edgewright: a core device on EC2"
        )
        names, nucleus = self.names, stage.nucleus_download
        system = "ubuntu" if stage.edge_server.nucleus.kind == "lite" else "amazon-linux"
        network = EdgeNetwork(
            self,
            "Network",
            name=names.edge_server,
            cidr=stage.network.cidr,
            flow_logs=stage.network.flow_logs,
            system=system,
            cameras=stage.camera_ways,
        )
        server = EdgeServer(
            self,
            "Server",
            network=network,
            instance_profile=identity.edge_instance.profile_name,
            instance_type=stage.instance_type,
            architecture=stage.runtime.architecture,
            volume_gib=stage.edge_server.volume_gib,
            image=stage.edge_server.image.isoformat(),
            settings={
                "REGION": stage.region,
                "STAGE": stage.name,
                "THING_NAME": names.edge_server,
                "JOIN_FUNCTION": names.join_function,
                "ROLE_ALIAS": names.role_alias,
                "ARTIFACT_BUCKET": storage.artifacts.name,
                "NUCLEUS_URL": nucleus.url,
                "NUCLEUS_SHA256": nucleus.sha256,
                "PYTHON": stage.runtime.python,
            },
            script=user_data_script(stage.edge_server.nucleus.kind),
            system=system,
            patience=Duration.minutes(stage.edge_server.provisioning_minutes),
            name=names.edge_server,
        )
        if stage.fleet.nucleus == "classic":
            # In place of one more setting, which would replace a server that runs.
            Tags.of(server.resource).add(NUCLEUS_TAG, "classic")
        join = ServerJoin(
            self,
            "Join",
            name=names.join_function,
            thing=names.edge_server,
            thing_group=names.ring_group(stage.fleet.ring_of(names.edge_server)),
            policy=names.iot_policy,
            fingerprint=server.fingerprint,
        )
        server.resource.node.add_dependency(join.function)
        join.confirm_after(network, server)
        self.fingerprint = server.fingerprint
        self.needs(storage, identity, fleet)
