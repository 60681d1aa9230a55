"""What Greengrass does to IoT's jobs with the rights of its caller.

Source: the dependent actions of the Service Authorization Reference, "AWS IoT Greengrass V2". Shadows are left out: the
twin's deployments have none.
"""

from __future__ import annotations

from collections.abc import Iterator

from ministack.core.responses import get_account_id, get_region

from twin.cloud.greengrass.core_device import CORE_DEVICES, effective_deployments
from twin.cloud.greengrass.deployment import DEPLOYMENTS

Right = tuple[str, str]

#: Verbs on the deployment's job; the target is described with all of them but DeleteDeployment.
_JOB_VERBS = {
    "greengrass:GetDeployment": ("DescribeJob",),
    "greengrass:CancelDeployment": ("DescribeJob", "CancelJob", "UpdateJob"),
    "greengrass:DeleteDeployment": ("DeleteJob",),
}
_EXECUTION_VERBS = {
    "greengrass:DeleteCoreDevice": (),
    "greengrass:ListEffectiveDeployments": ("DescribeJob",),
}


def needed(action: str, resource_arn: str) -> Iterator[Right]:
    """List the rights that a call asks for besides its own.

    Args:
        action: Such as `greengrass:CancelDeployment`.
        resource_arn: Of the deployment or the core device.

    Returns:
        IAM action and ARN of each; none for other calls, and for what does not exist.
    """
    name = resource_arn.rpartition(":")[2]
    if action in _JOB_VERBS and (deployment := DEPLOYMENTS.get(name)):
        yield from ((f"iot:{verb}", deployment["iotJobArn"]) for verb in _JOB_VERBS[action])
        if action != "greengrass:DeleteDeployment":
            kind = "DescribeThingGroup" if ":thinggroup/" in deployment["targetArn"] else "DescribeThing"
            yield f"iot:{kind}", deployment["targetArn"]
    elif action in _EXECUTION_VERBS and name in CORE_DEVICES:
        for each in effective_deployments(name):
            yield from ((f"iot:{verb}", each["iotJobArn"]) for verb in _EXECUTION_VERBS[action])
            yield "iot:DescribeJobExecution", each["iotJobArn"]
            # The action is on both: a policy that allows one of them allows nothing.
            yield "iot:DescribeJobExecution", f"arn:aws:iot:{get_region()}:{get_account_id()}:thing/{name}"
