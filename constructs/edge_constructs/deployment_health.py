"""Waits until devices run what was deployed to them."""

from collections.abc import Sequence

from aws_cdk import Duration
from constructs import Construct

from config.fleet import Health
from edge_constructs.fleet_deployment import FleetDeployment
from edge_constructs.handler_provider import HandlerProvider
from edge_constructs.permission import Permission, arn
from edge_handlers import deployment_health

_NAMED_BY_SERVICE = "Greengrass names deployments and their jobs"
_DEVICES = "which devices are in a ring is known at the deploy only"
#: The handler reports a time-out by itself, with the devices' names: the framework's own comes later.
_MARGIN_MINUTES = 5


class DeploymentHealth(Construct):
    """Holds a stack's deploy back until a ring's devices are healthy; CloudFormation by itself does not wait for any.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        health: How long to wait, and for how many devices.
        target_arns: ARNs of the thing groups that may be waited for.
    """

    def __init__(self, scope: Construct, construct_id: str, *, health: Health, target_arns: Sequence[str]) -> None:
        super().__init__(scope, construct_id)
        self._health = health
        self._provider = HandlerProvider(
            self,
            "Handler",
            handler=deployment_health,
            permissions=_permissions(tuple(target_arns)),
            limit=Duration.minutes(health.timeout_minutes + _MARGIN_MINUTES),
            query_interval=Duration.seconds(2),
        )

    def wait_for(
        self, construct_id: str, deployment: FleetDeployment, *, ring: str, expected: Sequence[str]
    ) -> Construct:
        """Wait for a ring.

        Args:
            construct_id: Id of the resource.
            deployment: The ring's deployment.
            ring: Its name in error texts.
            expected: Thing names of devices that must report; the ring's other core devices are found by themselves,
                and things that have never been core devices are not waited for.

        Returns:
            What the next ring must depend on.
        """
        return self._provider.resource(
            self,
            construct_id,
            deployment_health.HealthCheck(
                deployment=deployment.resource.attr_deployment_id,
                group_arn=deployment.target_arn,
                ring=ring,
                healthy_percentage=self._health.healthy_percentage,
                timeout_s=self._health.timeout_minutes * 60,
                expected=tuple(expected),
            ),
        )


def _permissions(targets: tuple[str, ...]) -> list[Permission]:
    devices, things, jobs = arn("greengrass", "coreDevices:*"), arn("iot", "thing/*"), arn("iot", "job/*")
    return [
        Permission(
            ("greengrass:ListCoreDevices",), ("*",), wildcard_reason="the service knows no resource for this action"
        ),
        Permission(
            ("greengrass:GetDeployment",), (arn("greengrass", "deployments:*"),), wildcard_reason=_NAMED_BY_SERVICE
        ),
        Permission(
            ("greengrass:ListEffectiveDeployments", "greengrass:ListInstalledComponents"),
            (devices,),
            wildcard_reason=_DEVICES,
        ),
        Permission(("iot:ListJobExecutionsForJob",), (jobs,), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(("iot:DescribeJob",), (jobs,), wildcard_reason=_NAMED_BY_SERVICE),
        Permission(("iot:DescribeJobExecution",), (jobs, things), wildcard_reason=_DEVICES),
        Permission(("iot:DescribeThing", "iot:GetThingShadow"), (things,), wildcard_reason=_DEVICES),
        Permission(("iot:DescribeThingGroup",), targets),
    ]
