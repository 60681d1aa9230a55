"""Permissions that no run on the twin can show are named by a test each, and no reason outlives its permission."""

import json
import re
from typing import Any

import pytest

from tests.synthesis import resources, stacks, template
from tools.least_privilege import UNSEEN, Unseen, why_unseen

STAGE = "twin"


def statements() -> list[tuple[str, dict[str, Any]]]:
    """Logical id of each role or policy, with each of its statements."""
    found = []
    for stack in stacks(STAGE):
        for logical_id, resource in template(STAGE, stack)["Resources"].items():
            properties = resource.get("Properties", {})
            documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
            if resource["Type"] == "AWS::IAM::Policy":
                documents = [properties["PolicyDocument"]]
            if resource["Type"] in ("AWS::IAM::Role", "AWS::IAM::Policy"):
                found += [(logical_id, each) for document in documents for each in document["Statement"]]
    return found


def of_role(prefix: str) -> list[dict[str, Any]]:
    return [statement for logical_id, statement in statements() if logical_id.startswith(prefix)]


def actions(prefix: str) -> set[str]:
    return {action for statement in of_role(prefix) for action in statement["Action"]}


@pytest.mark.parametrize("entry", UNSEEN, ids=lambda entry: f"{entry.roles} {entry.actions}")
def test_every_reason_covers_a_statement_that_a_stack_has(entry: Unseen) -> None:
    assert any(
        re.match(entry.roles, logical_id) and all(re.fullmatch(entry.actions, action) for action in statement["Action"])
        for logical_id, statement in statements()
    )


def test_a_statement_with_one_more_action_is_not_excused() -> None:
    assert why_unseen("JoinRole1", {"Action": ["iot:UpdateCertificate"]})
    assert why_unseen("JoinRole1", {"Action": ["iot:UpdateCertificate", "iot:DeletePolicy"]}) is None


def test_every_function_may_write_its_own_log_and_no_other() -> None:
    for stack in stacks(STAGE):
        content = template(STAGE, stack)["Resources"]
        for function in resources(STAGE, stack, "AWS::Lambda::Function"):
            (role,) = [name for name in content if f'"{name}"' in json.dumps(function["Properties"]["Role"])]
            group = function["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]
            (logs,) = [
                each
                for each in content[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
                if each["Action"][0].startswith("logs:")
            ]
            assert set(logs["Action"]) == {"logs:CreateLogStream", "logs:PutLogEvents"}
            assert logs["Resource"] == [{"Fn::GetAtt": [group, "Arn"]}]


def test_the_compiler_may_log_its_jobs() -> None:
    told = json.dumps([each for each in of_role("CompilerRole") if "logs:PutLogEvents" in each["Action"]])

    assert "log-group:/aws/sagemaker/CompilationJobs" in told


def test_the_compiler_may_look_for_its_source() -> None:
    assert "s3:ListBucket" in actions("CompilerRole")


def test_operators_reach_the_edge_server_by_session_manager() -> None:
    channels = {f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")}

    assert channels | {"ssm:UpdateInstanceInformation"} <= actions("EdgeInstanceRole")


def test_devices_may_ask_where_the_bucket_is() -> None:
    assert "s3:GetBucketLocation" in actions("TokenExchangeRole")


def test_devices_may_list_their_groups() -> None:
    assert "greengrass:ListThingGroupsForCoreDevice" in actions("TokenExchangeRole")


def test_aws_iot_may_bring_up_to_date_what_the_template_names_and_no_more() -> None:
    found = {tuple(each["Action"]): json.dumps(each["Resource"]) for each in of_role("ProvisioningRole")}

    told = {tuple(action.removeprefix("iot:") for action in each): where for each, where in found.items()}
    thing = "thing/edgewright-twin-*"
    for verbs, resource in (
        (("CreateThing", "DescribeThing", "UpdateThing", "ListThingGroupsForThing"), thing),
        (("CreateThing", "UpdateThing", "DescribeThingType"), "thingtype/edgewright-twin-core"),
        (("AddThingToThingGroup", "DescribeThingGroup"), "thinggroup/edgewright-twin"),
        (("DescribeCertificate", "UpdateCertificate", "AttachPolicy"), "cert/*"),
        (("GetPolicy",), "policy/edgewright-twin-core-device"),
        (("AttachThingPrincipal", "ListAttachedPolicies", "ListPrincipalThings", "ListThingPrincipals"), "*"),
    ):
        assert resource in told.pop(verbs)
    assert told == {}


def test_a_sweep_may_end_the_jobs_of_deployments() -> None:
    assert {"iot:CancelJob", "iot:DeleteJob", "iot:DescribeJob", "iot:UpdateJob"} <= actions("ComponentsHandlerRole")
    assert {"iot:DescribeThingGroup", "iot:GetThingShadow", "iot:UpdateThingShadow"} <= actions("ComponentsHandlerRole")


def test_the_register_may_look_at_a_devices_jobs() -> None:
    (jobs,) = [each for each in of_role("RegistryHandlerRole") if each["Action"] == ["iot:DescribeJobExecution"]]

    assert ":job/*" in json.dumps(jobs["Resource"])


def test_a_health_check_reads_jobs_and_targets_and_may_deploy_what_a_ring_had() -> None:
    found = actions("HealthHandlerRole")

    assert {"iot:DescribeJob", "iot:DescribeThing", "iot:DescribeThingGroup", "iot:GetThingShadow"} <= found
    verbs = {action.split(":")[1] for action in found if action.startswith(("iot:", "greengrass:"))}
    changing = {verb for verb in verbs if not verb.startswith(("List", "Get", "Describe"))}
    assert changing == {"CreateDeployment", "CreateJob", "CancelJob", "UpdateJob"}
