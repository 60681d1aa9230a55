"""Permissions that a run on the twin cannot show to be needed, each with who needs it on AWS.

An entry covers a statement only if it covers all of its actions; tests/unit/test_unseen_permissions.py fails for an
entry that no stack has any more.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
        r".*Handler(Pro|Prov).*",
        "lambda:InvokeFunction",
        "the waiter's state machine calls the framework (test_the_waiter_may_call_exactly_two_functions)",
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
