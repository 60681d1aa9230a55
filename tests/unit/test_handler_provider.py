"""Every custom resource's handler: exact rights, a log group that goes with it, an end to every wait."""

import json
from itertools import product
from typing import Any

import pytest

from tests.synthesis import resources, stacks, template

STACKS = ("Storage", "Fleet", "Models", "Inference")


def of_all_stacks(kind: str) -> list[dict[str, Any]]:
    return [found for stack in STACKS for found in resources("twin", stack, kind)]


def test_every_function_logs_to_a_group_of_its_stack() -> None:
    for stack in STACKS:
        groups = {name for name, each in template("twin", stack)["Resources"].items() if "LogGroup" in each["Type"]}
        for function in resources("twin", stack, "AWS::Lambda::Function"):
            assert function["Properties"]["LoggingConfig"]["LogGroup"]["Ref"] in groups


def test_log_groups_go_with_their_stack() -> None:
    assert {group["DeletionPolicy"] for group in of_all_stacks("AWS::Logs::LogGroup")} == {"Delete"}


def test_no_role_takes_a_managed_policy_or_may_make_log_groups() -> None:
    told = json.dumps(of_all_stacks("AWS::IAM::Role") + of_all_stacks("AWS::IAM::Policy"))

    assert "ManagedPolicyArns" not in told
    assert "logs:CreateLogGroup" not in told


def test_no_role_has_an_action_with_a_wildcard() -> None:
    statements = [
        statement
        for role in of_all_stacks("AWS::IAM::Role")
        for policy in role["Properties"].get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
    ]

    assert len(statements) > 20
    assert not [action for statement in statements for action in statement["Action"] if "*" in action]


def test_every_custom_resource_has_a_limit_of_its_own() -> None:
    custom = [
        each
        for stage, stack in product(["twin", "prod"], STACKS)
        for each in template(stage, stack)["Resources"].values()
        if each["Type"].startswith("Custom::")
    ]

    assert len(custom) > 10
    assert all(60 < int(each["Properties"]["ServiceTimeout"]) <= 3600 for each in custom)


def test_cloudformation_waits_longer_than_the_waiter() -> None:
    (machine,) = resources("twin", "Models", "AWS::StepFunctions::StateMachine")
    (job,) = resources("twin", "Models", "Custom::NeoCompilation")
    (retry,) = machine["Properties"]["Definition"]["States"]["Ask"]["Retry"]
    longest = retry["MaxAttempts"] * retry["IntervalSeconds"]

    limit = int(job["Properties"]["ServiceTimeout"])
    assert limit > longest >= int(job["Properties"]["MaxRuntimeSeconds"])
    # Questions take time, too.
    assert machine["Properties"]["Definition"]["TimeoutSeconds"] == limit
    function = job["Properties"]["ServiceToken"]["Fn::GetAtt"][0]
    environment = template("twin", "Models")["Resources"][function]["Properties"]["Environment"]["Variables"]
    assert int(environment["LIMIT_S"]) < limit


def test_an_event_is_not_repeated_and_none_comes_when_cloudformation_has_given_up() -> None:
    for stack in STACKS:
        content = template("twin", stack)["Resources"]
        patience = {
            json.dumps(each["Properties"]["ServiceToken"]): int(each["Properties"]["ServiceTimeout"])
            for each in content.values()
            if each["Type"].startswith("Custom::")
        }
        asynchronous = {
            json.dumps({"Fn::GetAtt": [each["Properties"]["FunctionName"]["Ref"], "Arn"]}): each["Properties"]
            for each in content.values()
            if each["Type"] == "AWS::Lambda::EventInvokeConfig"
        }
        own = [token for token in patience if json.loads(token).get("Fn::GetAtt", [""])[0] in content]
        assert own, stack
        for token in own:
            assert asynchronous[token]["MaximumRetryAttempts"] == 0
            assert asynchronous[token]["MaximumEventAgeInSeconds"] <= patience[token]


def test_the_waiter_may_call_exactly_its_function_which_may_start_exactly_it() -> None:
    content = template("twin", "Models")["Resources"]
    (machine,) = resources("twin", "Models", "AWS::StepFunctions::StateMachine")
    (job,) = resources("twin", "Models", "Custom::NeoCompilation")
    function = content[job["Properties"]["ServiceToken"]["Fn::GetAtt"][0]]
    waiter = content[machine["Properties"]["RoleArn"]["Fn::GetAtt"][0]]
    (statement,) = waiter["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    role = content[function["Properties"]["Role"]["Fn::GetAtt"][0]]
    starts = [
        each
        for each in role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
        if each["Action"] == ["states:StartExecution"]
    ]

    assert statement["Action"] == ["lambda:InvokeFunction"]
    assert statement["Resource"] == [job["Properties"]["ServiceToken"]]
    assert machine["Properties"]["StateMachineName"] == "edgewright-twin-models-neo-compilation"
    told = function["Properties"]["Environment"]["Variables"]["WAITER"]
    assert [each["Resource"] for each in starts] == [[told]]
    assert told["Fn::Join"][1][-1].endswith(":stateMachine:edgewright-twin-models-neo-compilation")


def test_a_function_keeps_the_id_of_the_framework_s_whose_token_resources_have() -> None:
    for stack in ("Storage", "Fleet", "Provisioning", "EdgeServer", "Inference"):
        custom = [each for each in template("twin", stack)["Resources"].values() if each["Type"].startswith("Custom::")]
        tokens = {json.dumps(each["Properties"]["ServiceToken"]) for each in custom}
        assert custom
        assert all("ProviderframeworkonEvent" in token for token in tokens), stack


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_every_handler_that_a_stack_names_exists(stage: str) -> None:
    import importlib

    named = {
        function["Properties"]["Handler"]
        for stack in stacks(stage)
        for function in resources(stage, stack, "AWS::Lambda::Function")
        if function["Properties"]["Runtime"].startswith("python")
    }

    assert named
    for path in named:
        module, _, function_name = path.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function_name))


def test_every_function_outlives_its_longest_call_to_aws() -> None:
    from edge_handlers import service_client as calls

    back_off_s = 31  # as service_client tells
    longest_s = calls.ATTEMPTS * (calls.CONNECT_TIMEOUT_S + calls.READ_TIMEOUT_S) + back_off_s

    assert {function["Properties"]["Timeout"] >= longest_s for function in of_all_stacks("AWS::Lambda::Function")} == {
        True
    }


def test_the_packer_has_room_for_the_largest_model() -> None:
    from edge_handlers.model_archive import MAX_BYTES

    sizes = [
        function["Properties"]["EphemeralStorage"]["Size"] * 2**20
        for function in resources("twin", "Models", "AWS::Lambda::Function")
        if "model_package" in function["Properties"]["Handler"]
    ]

    assert len(sizes) == 1
    assert sizes[0] >= 2 * MAX_BYTES, "the unpacked archives and the zip lie beside each other"
