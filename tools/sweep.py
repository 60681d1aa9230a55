"""What an interrupted deploy or destroy left beside the stacks of a stage, removed: on AWS as on the twin.

The calls are the handlers' own, so that a sweep goes as far as a destroy does. What a stack makes is never taken: where
the stack is gone and it is still there, somebody retained it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from config.fleet import RINGS
from config.names import Names
from config.stage import Stage
from edge_handlers import component_library, device_registry, model_verification, neo_compilation
from edge_handlers.deadline import Deadline
from edge_handlers.device_list import DeviceList
from edge_handlers.service_client import GONE, ignoring, unless_absent
from twin.errors import TwinError

LIMIT_S = 900.0
_PAUSE_S = 2.0

Client = Callable[[str], Any]


def sweep(stage: Stage, found: dict[str, list[str]], client: Client) -> None:
    """Remove a stage's devices, deployments, component versions, jobs, endpoints, log groups and parameters.

    Args:
        stage: The stage.
        found: As `tools.inventory.take` lists it.
        client: Gives the boto3 client of a service, in the stage's region.

    Raises:
        TwinError: The stage has stacks, or a job does not end within 15 minutes.
        AwsCallError: A call was refused.
        DeadlineError: It takes longer than 15 minutes; a second run goes on.
    """
    if stacks := found.get("stacks"):
        raise TwinError(
            f"a stage that is swept must have no stacks, got {', '.join(stacks)}: "
            f"run `npx cdk destroy -c stage={stage.name} --all` first"
        )
    names, deadline = Names(stage.name), Deadline(LIMIT_S)
    iot, greengrass, sagemaker = client("iot"), client("greengrassv2"), client("sagemaker")
    groups = _group_arns(names, stage.region, client("sts").get_caller_identity()["Arn"])
    component_library.sweep_away(
        component_library.ComponentSweep((f"edgewright.{stage.name}.*",), groups[0], tuple(groups[1:])),
        greengrass,
        deadline,
    )
    _take_devices(names, iot, greengrass, deadline)
    for core in found.get("core devices", ()):
        with ignoring(GONE):
            greengrass.delete_core_device(coreDeviceThingName=core)
    for job in found.get("IoT jobs", ()):
        with ignoring(GONE):
            iot.delete_job(jobId=job, force=True)
    for job in found.get("compilation jobs", ()):
        _until(lambda job=job: neo_compilation.retire(job, sagemaker), f"compilation job {job}", deadline)  # type: ignore[misc]
    endpoints = {*found.get("endpoints", ()), *found.get("endpoint configurations", ())}
    for name in sorted({*endpoints, *found.get("SageMaker models", ())}):
        _until(lambda name=name: model_verification.remove(name, sagemaker), f"endpoint {name}", deadline)  # type: ignore[misc]
    for name in found.get("SSM parameters", ()):
        with unless_absent(), ignoring("ParameterNotFound"):
            client("ssm").delete_parameter(Name=name)
    for name in found.get("log groups", ()):
        with ignoring(GONE):
            client("logs").delete_log_group(logGroupName=name)


def _group_arns(names: Names, region: str, caller: str) -> list[str]:
    """ARNs of the rings' thing groups, that of `all` first, whether they are there or not."""
    _, partition, _, _, account, *_ = caller.split(":")
    rings = ["all", *(ring for ring in RINGS if ring != "all")]
    return [f"arn:{partition}:iot:{region}:{account}:thinggroup/{names.ring_group(ring)}" for ring in rings]


def _take_devices(names: Names, iot: Any, greengrass: Any, deadline: Deadline) -> None:
    registry = device_registry.Registry(
        group=names.thing_group,
        rings={ring: names.ring_group(ring) for ring in RINGS},
        thing_type=names.thing_type,
        policy=names.iot_policy,
        # A delete reads no list.
        listing=DeviceList("", "", ""),
    )
    with ignoring(GONE):
        _until(
            lambda: device_registry.DeviceRegistry(iot, greengrass, deadline).delete(registry), "the devices", deadline
        )


def _until(gone: Callable[[], bool], what: str, deadline: Deadline) -> None:
    while not gone():
        if deadline.remaining() <= 0:
            raise TwinError(f"{what} must be gone within {LIMIT_S:.0f} s, got more to do: run the same command again")
        time.sleep(_PAUSE_S)
