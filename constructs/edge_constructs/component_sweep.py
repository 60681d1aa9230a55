"""Takes away what replaced components and deployments leave behind."""

from collections.abc import Sequence

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

_NAMED_BY_SERVICE = "Greengrass names deployments and their jobs"


class ComponentSweep(Construct):
    """On delete, removes every version of a stage's components and every deployment to its thing group.

    Whatever it sweeps must depend on it: then it is the last to be deleted.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        components: What the names of the stage's components start with, with a trailing dot.
        thing_group: The deployments' target.
    """

    def __init__(self, scope: Construct, construct_id: str, *, components: str, thing_group: str) -> None:
        super().__init__(scope, construct_id)
        target = arn("iot", f"thinggroup/{thing_group}")
        provider = HandlerProvider(
            self,
            "Handler",
            capability="component_sweep",
            permissions=_permissions(components, target),
            limit=Duration.minutes(14),
        )
        self.resource = provider.resource(
            self, "Sweep", properties={"ComponentNames": [f"{components}*"], "ThingGroupArn": target}
        )


def _permissions(components: str, target: str) -> Sequence[Permission]:
    versions = "the sweep takes every version of every component of this stage"
    jobs = ("iot:CancelJob", "iot:DeleteJob", "iot:DescribeJob", "iot:UpdateJob")
    shadows = ("iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow")
    return [
        Permission(
            ("greengrass:ListDeployments", "greengrass:ListComponents"),
            ("*",),
            wildcard_reason="the service knows no resource for these actions",
        ),
        Permission(
            ("greengrass:CancelDeployment", "greengrass:DeleteDeployment"),
            (arn("greengrass", "deployments:*"),),
            wildcard_reason=_NAMED_BY_SERVICE,
        ),
        Permission(jobs, (arn("iot", "job/*"),), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(
            ("iot:DescribeThing", *shadows),
            (arn("iot", "thing/*"),),
            wildcard_reason="Greengrass acts on the target's things with the caller's rights",
        ),
        Permission(("iot:DescribeThingGroup",), (target,)),
        Permission(
            ("greengrass:ListComponentVersions",),
            (arn("greengrass", f"components:{components}*"),),
            wildcard_reason=versions,
        ),
        Permission(
            ("greengrass:DeleteComponent",),
            (arn("greengrass", f"components:{components}*:versions:*"),),
            wildcard_reason=versions,
        ),
    ]
