"""The devices: what they are, which group deployments reach, and the register of them."""

from aws_cdk import aws_iot as iot
from constructs import Construct

from config.stage import Stage
from edge_constructs.device_registry import DeviceRegistry
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StageStack


class FleetStack(StageStack):
    """Thing type, thing group and the devices in it, the edge server included.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        identity: Its policy outlives the certificates that it is attached to.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, identity: IdentityStack) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="fleet", description="Edgewright: things and groups")
        names = self.names
        thing_type = iot.CfnThingType(self, "ThingType", thing_type_name=names.thing_type)
        thing_group = iot.CfnThingGroup(self, "ThingGroup", thing_group_name=names.thing_group)
        self.thing_group_arn = thing_group.attr_arn
        registry = DeviceRegistry(
            self,
            "Registry",
            thing_group=names.thing_group,
            thing_type=names.thing_type,
            policy=names.iot_policy,
            devices=sorted({names.edge_server, *stage.fleet.devices}),
        )
        registry.resource.node.add_dependency(thing_type, thing_group)
        self.needs(identity)
