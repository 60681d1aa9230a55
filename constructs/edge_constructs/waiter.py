"""The state machine by which the Provider framework waits, cut down to exact permissions."""

from typing import cast

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import custom_resources as cr

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import Permission
from edge_constructs.service_role import INLINE_POLICY, ServiceRole

_REASONS = {
    "SF1": "the waiter only repeats one call; the handlers that it calls log every step",
    "SF2": "the waiter only repeats one call: there is no path through it to trace",
    "Serverless-StepFunctionStateMachineXray": "the waiter only repeats one call: there is no path through it to trace",
}


def harden_waiter(provider: cr.Provider, starter: ServiceRole) -> None:
    """Narrow the waiter of a provider with an `is_complete` handler.

    Args:
        provider: The provider, complete.
        starter: Role of the framework function that starts the waiter; it gets exactly that permission.
    """
    waiter = provider.node.find_child("waiter-state-machine")
    machine = cast("sfn.CfnStateMachine", waiter.node.find_child("Resource"))
    acknowledge(machine, _REASONS)
    starter.allow(Permission(actions=("states:StartExecution",), resources=(machine.ref,)))
    functions = [
        cast("lambda_.Function", provider.node.find_child(f"framework-{name}")).function_arn
        for name in ("isComplete", "onTimeout")
    ]
    policy = cast("iam.CfnPolicy", waiter.node.find_child("Role").node.find_child("DefaultPolicy").node.default_child)
    # The framework's own grant covers every version of its functions by a wildcard; the machine calls none of them.
    invoke = Permission(actions=("lambda:InvokeFunction",), resources=tuple(functions))
    policy.policy_document = {"Version": "2012-10-17", "Statement": [invoke.statement]}
    acknowledge(policy, {INLINE_POLICY: "made by the CDK's framework for this one role, and narrowed to two functions"})
