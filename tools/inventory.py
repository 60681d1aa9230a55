"""`python -m tools.inventory --stage dev`: what of a stage is left in the account that the credentials lead to.

Other stages and everything that is not Edgewright's are left out, so it fits a shared account; a stage with
`retain = true` keeps its key, its buckets and what they hold. It only lists; with `--sweep` it first removes what
handlers and services made beside the stacks, which a destroy that came too early or was interrupted may leave. Exit
code 0 when nothing is left, 1 when something is, 2 when the account cannot be read or swept. SageMaker's edge packaging
jobs are left out: AWS has no call that deletes one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from config.fleet import RINGS
from config.loader import FOLDER, ConfigurationError, load_stage, stage_names
from config.names import Names
from config.stage import Stage
from edge_handlers import component_library, device_registry, model_verification, neo_compilation
from edge_handlers.certificates import PolicyInUseError
from edge_handlers.device_list import CLIENTS, OWNER, DeviceList
from edge_handlers.service_client import GONE, AwsCallError, Deadline, DeadlineError, ignoring, unless_absent
from twin import TwinError
from twin.inventory import LISTINGS, VPC_PARTS, Account, Listing

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
    # A delete reads no list.
    nowhere = DeviceList("", "", "")
    cores = device_registry.Registry(
        group=names.thing_group,
        rings={ring: names.ring_group(ring) for ring in RINGS},
        thing_type=names.thing_type,
        policy=names.iot_policy,
        listing=nowhere,
    )
    clients = device_registry.Registry(
        group=names.client_group,
        rings={CLIENTS: names.client_group},
        thing_type=names.client_type,
        policy=names.client_policy,
        listing=nowhere,
    )
    work = device_registry.DeviceRegistry(iot, greengrass, deadline)
    for registry, what in ((clients, "the client devices"), (cores, "the devices")):
        with ignoring(GONE):
            _until(lambda registry=registry: work.delete(registry), what, deadline)  # type: ignore[misc]


def _until(gone: Callable[[], bool], what: str, deadline: Deadline) -> None:
    while not gone():
        if deadline.remaining() <= 0:
            raise TwinError(f"{what} must be gone within {LIMIT_S:.0f} s, got more to do: run the same command again")
        time.sleep(_PAUSE_S)


TAG = "edgewright:stage"
_NOT_SWEPT = (AwsCallError, DeadlineError, PolicyInUseError)
_BY_TAG = ("instances", "volumes", "launch templates", "VPCs")
#: Told by another question than for all names: what they are called does not show whose they are.
_APART = ("things", "certificates", "deployments", "core devices", "IoT jobs")


def take(stage: Stage, account: Account, others: Iterable[str] = ()) -> dict[str, list[str]]:
    """List what a stage has in an account.

    Args:
        stage: The stage.
        account: The account, in the stage's region.
        others: Names of the other stages: one may start with this one's name, as `dev-2` does with `dev`.

    Returns:
        Sorted names or ids by kind, kinds without any left out.

    Raises:
        TwinError: A listing failed; the text names the call.
    """
    names = Names(stage.name)
    is_ours = name_filter(stage.name, others)
    found: dict[str, list[str]] = {}
    for listing in LISTINGS:
        if listing.kind in _APART:
            continue
        if listing.kind in _BY_TAG:
            found[listing.kind] = account.names(_tagged(listing, stage.name))
        else:
            found[listing.kind] = [name for name in account.names(listing) if is_ours(name)]
    for part in VPC_PARTS:
        found[part.kind] = [identifier for identifier, _vpc in account.names(_tagged(part, stage.name))]
    found["component versions"] = [
        version for version in account.component_versions() if version.startswith(f"edgewright.{stage.name}.")
    ]
    found["KMS keys"] = [key for key in account.usable_keys() if _has_tag(account, key, stage.name)]
    found.update(_fleet(stage, names, account))
    return {kind: sorted(set(left)) for kind, left in sorted(found.items()) if left}


def name_filter(stage: str, others: Iterable[str] = ()) -> Callable[[str], bool]:
    """Make the test whether a name, path or ARN is one of a stage's.

    Args:
        stage: The stage's name.
        others: The other stages' names; the longest one that fits has the name.
    """

    def pattern(name: str) -> re.Pattern[str]:
        return re.compile(rf"(^|[/:])edgewright[-/_]{re.escape(name)}($|[-/_:])")

    ours = pattern(stage)
    longer = [pattern(other) for other in others if other.startswith(f"{stage}-")]
    return lambda name: bool(ours.search(name)) and not any(other.search(name) for other in longer)


def _fleet(stage: Stage, names: Names, account: Account) -> dict[str, list[str]]:
    """What is found by the thing groups, the policy and the list of devices."""
    groups = [names.ring_group(ring) for ring in RINGS]
    cores_own, clients = (
        account.names(
            Listing("", "iot", "list_things", "things[].thingName", {"attributeName": OWNER, "attributeValue": mark})
        )
        for mark in (names.thing_group, names.client_group)
    )
    known = {*cores_own, names.edge_server, *(device.name for device in stage.fleet.roster)}
    cores = account.names(Listing("", "greengrassv2", "list_core_devices", "coreDevices[].coreDeviceThingName"))
    deployments = account.names(
        Listing(
            "",
            "greengrassv2",
            "list_deployments",
            "deployments[].[deploymentId, targetArn]",
            {"historyFilter": "ALL"},
        )
    )
    there = set(account.names(Listing("", "iot", "list_thing_groups", "thingGroups[].groupName")))
    jobs = [
        job
        for group in groups
        if group in there
        for job in account.names(Listing("", "iot", "list_jobs", "jobs[].jobId", {"thingGroupName": group}))
        if _has_target(account, job, group)  # MiniStack lists them all
    ]
    certificates: list[str] = []
    policies = account.names(Listing("", "iot", "list_policies", "policies[].policyName"))
    for name in (names.iot_policy, names.client_policy):
        if name in policies:
            listing = Listing("", "iot", "list_targets_for_policy", "targets[]", {"policyName": name})
            certificates += [each.rpartition("/")[2] for each in account.names(listing) if ":cert/" in each]
    return {
        "things": [*cores_own, *clients],
        "core devices": [core for core in cores if core in known],
        "deployments": [name for name, target in deployments if target.rpartition("/")[2] in groups],
        "IoT jobs": jobs,
        "certificates": certificates,
    }


def _has_target(account: Account, job: str, group: str) -> bool:
    targets = account.names(Listing("", "iot", "describe_job", "job.targets", {"jobId": job}))
    return group in (target.rpartition("/")[2] for target in targets)


def _tagged(listing: Listing, stage: str) -> Listing:
    return replace(listing, arguments={"Filters": [{"Name": f"tag:{TAG}", "Values": [stage]}]})


def _has_tag(account: Account, key: str, stage: str) -> bool:
    tags = account.names(Listing("", "kms", "list_resource_tags", "Tags[].[TagKey, TagValue]", {"KeyId": key}))
    return [TAG, stage] in tags


def main(arguments: list[str] | None = None) -> int:
    """Print what is left of a stage; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.inventory", description=__doc__.partition("\n")[0])
    parser.add_argument("--stage", required=True, help="the stage's name")
    parser.add_argument("--config", type=Path, default=FOLDER, help="folder of the stages' files; config/ by default")
    parser.add_argument("--sweep", action="store_true", help="remove what is left beside the stacks; needs a destroy")
    parser.add_argument("--json", action="store_true", help="names by kind, as JSON")
    chosen = parser.parse_args(arguments)
    try:
        stage = load_stage(chosen.stage, chosen.config)
        account = Account({"region_name": stage.region})
        found = take(stage, account, stage_names(chosen.config))
        if chosen.sweep and found:
            sweep(stage, found, lambda service: boto3.client(service, region_name=stage.region))
            found = take(stage, account, stage_names(chosen.config))
    except (ConfigurationError, TwinError, *_NOT_SWEPT, BotoCoreError, ClientError) as exc:
        print(exc, file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        for kind, left in found.items():
            print(f"{kind}: {', '.join(left)}")
        print(f"left of stage {stage.name}: {sum(map(len, found.values())) or 'nothing'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
