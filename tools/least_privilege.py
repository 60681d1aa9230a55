"""Finds permissions that nothing needs.

Deploys, predicts, misbehaves, updates, lets a device join and destroys on a twin that evaluates IAM policies, then
takes each statement of each role away and asks which of the recorded requests would have been denied without it.

    python -m tools.least_privilege        exit code 1 if a statement is needed by nothing
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document
from ministack.services.iot import _parsed_iot_policy
from rich.console import Console
from rich.table import Table

from config.names import Names
from config.places import PROJECT as ROOT
from tools.offline_deploy import CdkError, DeploymentError, OfflineDeploy
from tools.predictions import HeldOut
from twin import TwinError, lifecycle
from twin.cloud.authorization import filled
from twin.operator import OperatorClient


@dataclass(frozen=True)
class Unseen:
    """Why some actions of some roles never show up in a trail.

    Attributes:
        roles: Pattern of the role's logical id, from its start.
        actions: Pattern of each action.
        reason: Who needs them, and which test fails without them.
    """

    roles: str
    actions: str
    reason: str


UNSEEN = (
    Unseen(
        ".*",
        r"logs:(CreateLogStream|PutLogEvents)",
        "AWS Lambda writes the function's log with the function's role; the twin writes it by itself "
        "(test_every_function_may_write_its_own_log_and_no_other)",
    ),
    Unseen(
        r"Rules(Errors|\w+Files)RuleRole",
        r"logs:(CreateLogStream|DescribeLogStreams|PutLogEvents)",
        "these rules fail only where S3, CloudWatch or KMS refuse a call (tests/twin/test_rule_rights.py)",
    ),
    Unseen(
        "ProvisioningRole",
        r"iot:((Create|Describe|Update)Thing|DescribeThing(Type|Group)|AddThingToThingGroup|ListThing\w+|GetPolicy)",
        "AWS IoT looks up and brings up to date what the template names, MiniStack asks for changes only "
        "(test_aws_iot_may_bring_up_to_date_what_the_template_names_and_no_more)",
    ),
    Unseen(
        "CompilerRole",
        r"logs:(CreateLogGroup|CreateLogStream|DescribeLogStreams|PutLogEvents)",
        "SageMaker writes the job's log with the execution role (test_the_compiler_may_log_its_jobs)",
    ),
    Unseen(
        "CompilerRole",
        "s3:ListBucket",
        "SageMaker looks for the source before it reads it (test_the_compiler_may_look_for_its_source)",
    ),
    Unseen(
        "Join(Confirmation)?",
        r"iot:((Detach|List)\w+|(Update|Delete|Describe)Certificate|AttachThingPrincipal)|greengrass:GetCoreDevice",
        "a certificate of a failed attempt, or of the server before, is taken away "
        "(tests/handlers/test_server_join.py, tests/integration/test_replaced_server.py)",
    ),
    Unseen(
        "EdgeInstanceRole",
        r"(ssm|ssmmessages):.*",
        "Session Manager's agent on the instance (test_operators_reach_the_edge_server_by_session_manager)",
    ),
    Unseen(
        "TokenExchangeRole",
        "s3:GetBucketLocation",
        "the classic nucleus asks where a bucket is before it reads from it (test_devices_may_ask_where_the_bucket_is)",
    ),
    Unseen(
        "TokenExchangeRole",
        "greengrass:ListThingGroupsForCoreDevice",
        "without it a device misses its removal from a group (test_devices_may_list_their_groups)",
    ),
    Unseen(
        "RegistryHandlerRole",
        "iot:DescribeJobExecution",
        "Greengrass deletes a core device with its caller's rights (test_the_register_may_look_at_a_devices_jobs)",
    ),
    Unseen(
        ".*WaiterRole",
        "lambda:InvokeFunction",
        "a state machine asks for what takes longer "
        "(test_the_waiter_may_call_exactly_its_function_which_may_start_exactly_it)",
    ),
    Unseen(
        ".*HandlerRole",
        "states:StartExecution",
        "the twin's work is done before a state machine must ask for it (tests/handlers/test_answering.py)",
    ),
    Unseen(
        ".*HandlerRole",
        "states:StopExecution",
        "the twin cancels no event that a state machine still asks for (tests/handlers/test_answering.py)",
    ),
    Unseen(
        "ComponentsHandlerRole",
        r"iot:(DescribeThing|\w+ThingShadow)",
        "Greengrass cancels a deployment of things with its caller's rights "
        "(test_a_sweep_may_end_the_jobs_of_deployments)",
    ),
    Unseen(
        "ComponentsHandlerRole",
        r"s3:GetObject|kms:Decrypt",
        "Greengrass reads a component's artifacts with its caller's rights "
        "(test_who_makes_versions_may_read_their_artifacts)",
    ),
    Unseen(
        "HealthHandlerRole",
        r"greengrass:List(EffectiveDeployments|InstalledComponents)|iot:DescribeJobExecution",
        "they tell why a device failed (tests/handlers/test_deployment_health.py)",
    ),
    Unseen(
        "HealthHandlerRole",
        r"iot:(DescribeThing|GetThingShadow)",
        "Greengrass reads a device's deployments with its caller's rights "
        "(test_a_health_check_reads_jobs_and_targets_and_may_deploy_what_a_ring_had)",
    ),
    Unseen(
        "HealthHandlerRole",
        "greengrass:CreateDeployment|iot:(Create|Cancel|Update)Job",
        "a rollback deploys what a ring had before, with its caller's rights on IoT's jobs "
        "(tests/handlers/test_deployment_health_changes.py)",
    ),
)


def why_unseen(logical_id: str, statement: Mapping[str, Any]) -> str | None:
    """Say why nothing in a trail needs a statement.

    Args:
        logical_id: Of the role, without the stack's name.
        statement: One of its statements.

    Returns:
        The reason, or None if there is none: then nothing needs the statement.
    """
    actions = statement["Action"]
    for entry in UNSEEN:
        if re.match(entry.roles, logical_id) and all(
            re.fullmatch(entry.actions, action) for action in ([actions] if isinstance(actions, str) else actions)
        ):
            return entry.reason
    return None


_LIMIT_S = 60.0
_NO_NUMBER = "1e999"
_CREATE = "$aws/certificates/create/json"
_SERIAL = "least-privilege"


class PathError(RuntimeError):
    """Something that should have happened did not; the message says what."""


def send_what_rules_refuse(operator: OperatorClient, names: Names) -> None:
    """Publish messages whose metric no rule can put, so that each rule writes down that it failed, and an error.

    What predictions do not bring of themselves, objects and drift, comes once as it should be, too.

    Args:
        operator: Connected client.
        names: Topics of the stage.

    Raises:
        TwinError: The broker does not take a message.
    """
    answers = names.response_topic("digits")
    for topic, message in (
        (answers, {"id": "r1", "latency_ms": _NO_NUMBER}),
        (answers, {"id": "r2", "top_k": [{"label": "7", "probability": _NO_NUMBER}]}),
        (answers, {"id": "r3", "error": {"code": "InvalidInput", "message": "no JSON"}}),
        *((answers, {"id": "r4", "objects": [{"label": "7", "probability": each}]}) for each in (0.9, _NO_NUMBER)),
        *((names.heartbeat_topic, {"drift": {"model": "digits", "highest": each}}) for each in (0.1, _NO_NUMBER)),
        (names.heartbeat_topic, {"uptime_s": _NO_NUMBER}),
    ):
        operator.publish(topic, json.dumps(message).encode())


def join_by_claim(deploy: OfflineDeploy, operator: OperatorClient, names: Names) -> None:
    """Register a thing, let it trade a claim for a certificate of its own, and leave a claim certificate behind.

    Args:
        deploy: Of the stage.
        operator: Connected client; it asks in the device's place.
        names: Of the stage.

    Raises:
        PathError: AWS IoT refused it; the message is the answer.
        TwinError: The broker does not answer.
    """
    iot, thing = deploy.client("iot"), f"{names.prefix}-{_SERIAL}"
    marks = {"attributes": {"edgewright-registry": names.thing_group}}
    iot.create_thing(thingName=thing, thingTypeName=names.thing_type, attributePayload=marks)
    iot.add_thing_to_thing_group(thingGroupName=names.thing_group, thingName=thing)
    claim = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName=names.claim, target=claim["certificateArn"])
    token = _call(operator, _CREATE, {})["certificateOwnershipToken"]
    request = {"certificateOwnershipToken": token, "parameters": {"SerialNumber": _SERIAL}}
    _call(operator, f"$aws/provisioning-templates/{names.claim}/provision/json", request)


def _call(operator: OperatorClient, topic: str, request: dict[str, Any]) -> dict[str, Any]:
    with operator.listen(f"{topic}/accepted") as accepted, operator.listen(f"{topic}/rejected") as rejected:
        operator.publish(topic, json.dumps(request).encode())
        deadline = time.monotonic() + _LIMIT_S
        while accepted.empty():
            if not rejected.empty():
                raise PathError(f"{topic} must be accepted, got {rejected.get().decode(errors='replace')[:300]}")
            if time.monotonic() > deadline:
                raise PathError(f"{topic} must be answered within {_LIMIT_S:.0f} s, it was not")
            time.sleep(0.05)
        answer: dict[str, Any] = json.loads(accepted.get())
        return answer


def leave_deployments(deploy: OfflineDeploy, names: Names) -> None:
    """Deploy past CloudFormation: to a ring, as an interrupted deploy does, and to one device, as an operator does.

    A destroy has to find the first, and to delete a core device that has the second.

    Args:
        deploy: Of the stage.
        names: Of the stage.
    """
    iot, greengrass = deploy.client("iot"), deploy.client("greengrassv2")
    ring = iot.describe_thing_group(thingGroupName=names.ring_group("canary"))["thingGroupArn"]
    device = iot.describe_thing(thingName=names.edge_server)["thingArn"]
    for target in (ring, device):
        greengrass.create_deployment(targetArn=target, components={})


def wait_for_captures(deploy: OfflineDeploy, names: Names) -> None:
    """Wait until the device has uploaded an input that its model was not sure of.

    Args:
        deploy: Of the stage; the bucket is in its account and region.
        names: Of the stage.

    Raises:
        PathError: There is none within a minute.
    """
    account, region = deploy.environment["CDK_DEFAULT_ACCOUNT"], deploy.environment["CDK_DEFAULT_REGION"]
    bucket, s3 = names.artifact_bucket(account, region), deploy.client("s3")
    deadline = time.monotonic() + _LIMIT_S
    while not s3.list_objects_v2(Bucket=bucket, Prefix="captures/").get("KeyCount"):
        if time.monotonic() > deadline:
            raise PathError(f"s3://{bucket}/captures/ must have an object within {_LIMIT_S:.0f} s, it has none")
        time.sleep(0.5)


STAGE, MODEL = "twin", "digits"
DEVICE = "Certificate"
Statement = Mapping[str, Any]
console = Console(highlight=False, width=200)


@dataclass(frozen=True)
class Grant:
    """One statement of one principal.

    Attributes:
        principal: Name of the role as the stack names it, or `Certificate` for the devices' IoT policy.
        number: Place in the policy document, from 0.
        statement: As deployed.
        needed_by: A recorded request that is denied without it, or why none can be recorded; None if nothing needs it.
    """

    principal: str
    number: int
    statement: Statement
    needed_by: str | None


def examine(
    policies: Mapping[str, Sequence[Statement]],
    trail: Sequence[Mapping[str, Any]],
    logical_ids: Mapping[str, str] | None = None,
) -> list[Grant]:
    """Take each statement away in turn.

    Args:
        policies: Principal to the statements of its policies.
        trail: Requests as twin.cloud.authorization records them.
        logical_ids: Principal to its logical id, by which reasons for unseen permissions are found; a principal
            without one has none.

    Returns:
        Every statement with what needs it.
    """
    found = []
    for principal, statements in policies.items():
        requests = [each for each in trail if each["principal"] == principal and each["allowed"]]
        for number, statement in enumerate(statements):
            rest = [other for place, other in enumerate(statements) if place != number]
            lost = next((each for each in requests if _allows(statements, each) and not _allows(rest, each)), None)
            logical_id = (logical_ids or {}).get(principal, "")
            needed = f"{lost['action']} on {lost['resource']}" if lost else why_unseen(logical_id, statement)
            found.append(Grant(principal, number, statement, needed))
    return found


def denials(trail: Sequence[Mapping[str, Any]]) -> list[str]:
    """Requests that were denied, whoever made them."""
    return sorted(
        f"{each['principal']}: {each['action']} on {each['resource']}" for each in trail if not each["allowed"]
    )


def _allows(statements: Sequence[Statement], request: Mapping[str, Any]) -> bool:
    context = EvalContext(
        principal_arn=request["principal"],
        principal_type=request["type"],
        principal_account=request["account"],
        action=request["action"],
        resource_arn=request["resource"],
        region=request["region"],
        service_context=dict(request["context"]),
    )
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    if request["principal"] == DEVICE:
        parsed = _parsed_iot_policy(text, tuple(sorted(request["context"].items())))
    else:
        (parsed,) = filled([parse_policy_document(text)], request["context"])
    return bool(evaluate(context, [parsed]).decision == "Allow")


def deployed_policies(deploy: OfflineDeploy, names: Names) -> dict[str, list[Statement]]:
    """Read the statements of the stage's roles and of its IoT policy from a running twin."""
    iam, policies = deploy.client("iam"), {}
    for page in iam.get_paginator("list_roles").paginate():
        for role in page["Roles"]:
            if role["RoleName"].startswith(f"{names.prefix}-"):
                policies[role["RoleName"]] = list(_statements(iam, role["RoleName"]))
    document = deploy.client("iot").get_policy(policyName=names.iot_policy)["policyDocument"]
    return {**policies, DEVICE: json.loads(document)["Statement"]}


def logical_ids(deploy: OfflineDeploy, names: Names) -> dict[str, str]:
    """Read the logical id of each of the stage's roles: CloudFormation cuts long ones for a role's name."""
    cloudformation, found = deploy.client("cloudformation"), {}
    for page in cloudformation.get_paginator("describe_stacks").paginate():
        for stack in page["Stacks"]:
            if stack["StackName"].startswith(f"{names.prefix}-"):
                for each in cloudformation.describe_stack_resources(StackName=stack["StackName"])["StackResources"]:
                    if each["ResourceType"] == "AWS::IAM::Role":
                        found[each["PhysicalResourceId"]] = each["LogicalResourceId"]
    return found


def _statements(iam: Any, role: str) -> Iterator[Statement]:
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        yield from iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]
    for attached in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        version = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]["DefaultVersionId"]
        document = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId=version)["PolicyVersion"]
        yield from document["Document"]["Statement"]


def read_trail(home: Path) -> list[dict[str, Any]]:
    """Read what the twin in a state folder recorded."""
    lines = (home / "log" / "access.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def run(out: Path, app: Path = ROOT) -> tuple[list[Grant], list[str]]:
    """Go through a stage's life on a twin of its own; returns the statements and the denied requests."""
    names, home = Names(STAGE), out / "twin"
    # What an interrupted run left would not be made again, and nobody would ask for the rights to make it.
    lifecycle.purge(home)
    state = lifecycle.start(home, auth=True)
    try:
        deploy = OfflineDeploy(environment=state.environment(), out=out, app=app, stage=STAGE)
        for step in (deploy.synth, deploy.bootstrap, deploy.deploy):
            console.print(f"{step.__name__}: {step():.1f} s")
        deploy.wait_for_device(names.edge_server, timeout_s=180)
        with OperatorClient(state) as operator:
            for _answer in HeldOut(operator, names).pictures(MODEL):
                pass
            send_what_rules_refuse(operator, names)
        wait_for_captures(deploy, names)
        # Another commit is another version of the model: then there is something to sweep.
        update = replace(deploy, context={"source_commit": "0" * 40})
        update.synth()
        console.print(f"update: {update.deploy():.1f} s")
        deploy.wait_for_device(names.edge_server, timeout_s=180)
        with OperatorClient(state) as operator:
            join_by_claim(deploy, operator, names)
        leave_deployments(deploy, names)
        policies, roles = deployed_policies(deploy, names), logical_ids(deploy, names)
        console.print(f"destroy: {deploy.destroy():.1f} s")
    finally:
        lifecycle.stop(home)
    trail = read_trail(home)
    return examine(policies, trail, roles), denials(trail)


def show(grants: Sequence[Grant]) -> None:
    """Print each statement with what needs it."""
    table = Table("role", "#", "actions", "needed by", box=None, pad_edge=False)
    for grant in grants:
        actions = grant.statement["Action"]
        told = actions if isinstance(actions, str) else ", ".join(actions)
        needed = grant.needed_by or "[red]nothing[/red]"
        table.add_row(grant.principal.removeprefix("edgewright-")[:60], str(grant.number), told[:70], needed[:110])
    console.print(table)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = ROOT / "out" / "least-privilege",
    app: Annotated[Path, typer.Option(help="Another checkout, whose twin.toml may ask for more.")] = ROOT,
) -> None:
    """Report the statements that nothing needs."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    try:
        grants, denied = run(out.resolve(), app.resolve())
    except (CdkError, DeploymentError, TwinError, OSError) as exc:
        print(f"least_privilege: {exc}", file=sys.stderr)
        sys.exit(1)
    show(grants)
    for request in denied:
        console.print(f"denied: {request}")
    superfluous = [grant for grant in grants if grant.needed_by is None]
    console.print(f"{len(grants)} statements, {len(superfluous)} that nothing needs")
    sys.exit(1 if superfluous else 0)


if __name__ == "__main__":
    typer.run(main)
