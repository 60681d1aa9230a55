"""Takes away what replaced components and deployments leave behind."""

from collections.abc import Mapping, Sequence

from aws_cdk import Duration
from constructs import Construct

from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn

_NAMED_BY_SERVICE = "Greengrass names deployments and their jobs"


class ComponentSweep(Construct):
    """On delete, removes every version of a stage's components and every deployment to its rings.

    Whatever it sweeps must depend on it: then it is the last to be deleted.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        components: What the names of the stage's components start with, with a trailing dot.
        rings: Ring to its thing group, which deployments target; `all` names the sweep.
    """

    def __init__(self, scope: Construct, construct_id: str, *, components: str, rings: Mapping[str, str]) -> None:
        super().__init__(scope, construct_id)
        targets = {ring: arn("iot", f"thinggroup/{group}") for ring, group in rings.items()}
        provider = HandlerProvider(
            self,
            "Handler",
            capability="component_sweep",
            permissions=_permissions(components, tuple(targets.values())),
            limit=Duration.minutes(14),
        )
        self.resource = provider.resource(
            self,
            "Sweep",
            properties={
                "ComponentNames": [f"{components}*"],
                "ThingGroupArn": targets["all"],
                "RingArns": [target for ring, target in targets.items() if ring != "all"],
            },
        )


def _permissions(components: str, targets: tuple[str, ...]) -> Sequence[Permission]:
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
        Permission(("iot:DescribeThingGroup",), targets),
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
