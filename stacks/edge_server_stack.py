"""The core device on EC2 with its network."""

from aws_cdk import Duration, Tags
from constructs import Construct

from config.names import NUCLEUS_TAG
from config.stage import Stage
from edge_constructs.edge_assets import user_data_script
from edge_constructs.edge_server import EdgeNetwork, EdgeServer, ServerJoin
from stacks.fleet_stack import FleetStack
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StageStack, StorageStack


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
