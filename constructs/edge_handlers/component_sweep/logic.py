"""Takes away what a stage's deployments leave in Greengrass: retained component versions, left-over deployments.

Component versions are retained when a new one replaces them (a device that is offline may still need the old one),
and a deployment that CloudFormation replaced or lost stays in the account. At destroy both go.

Permissions:
    greengrass:ListDeployments      `*` (the action has no resource)
    greengrass:CancelDeployment, greengrass:DeleteDeployment
                                    arn:<partition>:greengrass:<region>:<account>:deployments:*
    iot:CancelJob, iot:DeleteJob, iot:DescribeJob, iot:UpdateJob
                                    arn:<partition>:iot:<region>:<account>:job/*
    iot:DescribeThing, iot:DescribeThingGroup, iot:GetThingShadow, iot:UpdateThingShadow, iot:DeleteThingShadow
                                    the thing group and the stage's things (the two calls above act with the
                                    caller's rights)
    greengrass:ListComponentVersions    arn:<partition>:greengrass:<region>:<account>:components:<name>
    greengrass:DeleteComponent      arn:<partition>:greengrass:<region>:<account>:components:<name>:versions:*
    greengrass:ListComponents       `*`, only where a name in ComponentNames ends with an asterisk
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.deadline import Deadline
from edge_handlers.service_client import explaining, ignoring, settling

LOG = logging.getLogger(__name__)
GONE = "ResourceNotFoundException"


@dataclass(frozen=True)
class ComponentSweep:
    """What belongs to the stage.

    Args:
        names: Component names. `edgewright.dev.*` stands for every component whose name starts so, those of a
            model that has left the configuration included.
        target_arn: The thing group of the ring `all`, whose deployments are the stage's; it names the sweep.
        ring_arns: The other rings' thing groups, whose deployments are the stage's, too.
    """

    names: tuple[str, ...]
    target_arn: str
    ring_arns: tuple[str, ...] = ()

    @classmethod
    def of(cls, properties: Properties) -> "ComponentSweep":
        """Read ComponentNames, ThingGroupArn and, if given, RingArns.

        Raises:
            ValueError: One is missing, an ARN is not a thing group's, or a name with an asterisk would take in
                components of others.
        """
        rings = properties.texts("RingArns") if "RingArns" in properties.values else ()
        sweep = cls(properties.texts("ComponentNames"), properties.text("ThingGroupArn"), rings)
        for name, target in [("ThingGroupArn", sweep.target_arn), *(("RingArns", ring) for ring in rings)]:
            if not re.fullmatch(r"arn:[^:]+:iot:[^:]+:\d{12}:thinggroup/.+", target):
                raise ValueError(f"{properties.where}.{name} must be the ARN of a thing group, got {target!r}")
        for name in sweep.names:
            if "*" in name and not re.fullmatch(r"[^*]+\.[^*]+\.\*", name):
                raise ValueError(
                    f"{properties.where}.ComponentNames may use an asterisk only as the last of three or more "
                    f"parts, as in edgewright.dev.*, got {name!r}"
                )
        return sweep

    @property
    def physical_id(self) -> str:
        """The id that Create gives; it stays when the target changes."""
        return f"sweep-{self.target_arn}"

    def component_arn(self, name: str) -> str:
        """ARN of a component in the account and Region of the target."""
        _, partition, _, region, account, _ = self.target_arn.split(":", 5)
        return f"arn:{partition}:greengrass:{region}:{account}:components:{name}"


def sweep_away(sweep: ComponentSweep, greengrass: Any, deadline: Deadline) -> None:
    """Cancel and delete the targets' deployments, then delete every version of the components.

    Args:
        sweep: What belongs to the stage.
        greengrass: A boto3 greengrassv2 client.
        deadline: Checked before each deployment and version.

    Raises:
        AwsCallError: Greengrass refused a call; the text names the deployment or the component.
        DeadlineError: The time is over; a second run goes on.
    """
    for target in (sweep.target_arn, *sweep.ring_arns):
        for deployment in _deployments(target, greengrass):
            name = deployment["deploymentId"]
            deadline.check(f"delete deployment {name}")
            with explaining(f"delete deployment {name} of {target}"):
                _delete_deployment(deployment, greengrass)
    for arn in _version_arns(sweep, greengrass):
        deadline.check(f"delete {arn}")
        with explaining(f"delete component version {arn}"), ignoring(GONE):
            settling(lambda arn=arn: greengrass.delete_component(arn=arn), "ConflictException")  # type: ignore[misc]
            LOG.info("deleted %s", arn)


def _deployments(target_arn: str, greengrass: Any) -> list[dict[str, Any]]:
    """All of them, before the first is deleted: a listing that shrinks while it is read skips entries."""
    with explaining(f"list the deployments of {target_arn}"):
        pages = greengrass.get_paginator("list_deployments").paginate(targetArn=target_arn, historyFilter="ALL")
        return [deployment for page in pages for deployment in page["deployments"]]


def _delete_deployment(deployment: dict[str, Any], greengrass: Any) -> None:
    name = deployment["deploymentId"]
    with ignoring(GONE):
        if deployment.get("deploymentStatus") == "ACTIVE":
            with ignoring("ConflictException"):  # it ended in the meantime
                greengrass.cancel_deployment(deploymentId=name)
        # The IoT job behind it is cancelled a moment later.
        settling(lambda: greengrass.delete_deployment(deploymentId=name), "ConflictException")
        LOG.info("deleted deployment %s", name)


def _version_arns(sweep: ComponentSweep, greengrass: Any) -> list[str]:
    found: list[str] = []
    for name in _component_names(sweep, greengrass):
        with explaining(f"list the versions of component {name}"), ignoring(GONE):
            pages = greengrass.get_paginator("list_component_versions").paginate(arn=sweep.component_arn(name))
            found += [version["arn"] for page in pages for version in page["componentVersions"]]
    return found


def _component_names(sweep: ComponentSweep, greengrass: Any) -> Iterator[str]:
    patterns = tuple(name[:-1] for name in sweep.names if name.endswith("*"))
    exact = [name for name in sweep.names if not name.endswith("*")]
    yield from exact
    if not patterns:
        return
    with explaining("list the account's components"):
        pages = greengrass.get_paginator("list_components").paginate(scope="PRIVATE")
        listed = [component["componentName"] for page in pages for component in page["components"]]
    yield from (name for name in listed if name.startswith(patterns) and name not in exact)
