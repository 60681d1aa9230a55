"""How the fleet's devices join: the provisioning template by claim, and the index that they are searched by."""

from constructs import Construct

from config.stage import Stage
from edge_constructs.fleet_provisioning import FleetProvisioning
from stacks.fleet_stack import FleetStack
from stacks.stage_stack import StageStack


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
        FleetProvisioning(self, "Provisioning", names=self.names)
        self.needs(fleet)
