"""A custom resource's handler as a Lambda function behind the Provider framework, with exact permissions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from aws_cdk import CustomResource, Duration, IgnoreMode, RemovalPolicy, Size
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import custom_resources as cr
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import INLINE_POLICY, OF_THIS_ACCOUNT, Permission, ServiceRole, logging_to
from edge_handlers.custom_resource import Contract

_NO_VPC = "custom resources call public AWS endpoints only: a VPC would add a NAT gateway and guard nothing"
_SYNCHRONOUS = "called by the deploy, which waits for the answer and reports the failure: nothing is left to queue"
_NO_RESERVATION = (
    "one deploy calls it a few times; reserving concurrency would take it from the account, and fail where the "
    "account's limit is the initial 10"
)
_LOGGED = "every step is logged, and one call has no path worth a trace"

HANDLER = {
    "L1": "the handlers are tested on this runtime, which is supported until 2029",
    "NIST.800.53.R5-LambdaConcurrency": _NO_RESERVATION,
    "NIST.800.53.R5-LambdaDLQ": _SYNCHRONOUS,
    "NIST.800.53.R5-LambdaInsideVPC": _NO_VPC,
    "Serverless-LambdaDLQ": _SYNCHRONOUS,
    "Serverless-LambdaLatestVersion": "the handlers are tested on this runtime, which is supported until 2029",
    "Serverless-LambdaTracing": _LOGGED,
}
FRAMEWORK = {
    "NIST.800.53.R5-LambdaConcurrency": _NO_RESERVATION,
    "NIST.800.53.R5-LambdaDLQ": _SYNCHRONOUS,
    "NIST.800.53.R5-LambdaInsideVPC": _NO_VPC,
    "Serverless-LambdaDLQ": _SYNCHRONOUS,
    "Serverless-LambdaTracing": _LOGGED,
    "Serverless-LambdaDefaultMemorySize": "the CDK's framework function only passes events on: 128 MB is enough",
}
LOG = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log names resources and errors of a deploy, no data; CloudWatch "
    "encrypts it with a key of its own"
}


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
    role = waiter.node.find_child("Role")
    # The framework's role asks for no source.
    trust = "AssumeRolePolicyDocument.Statement.0.Condition"
    cast("iam.CfnRole", role.node.default_child).add_property_override(trust, dict(OF_THIS_ACCOUNT))
    policy = cast("iam.CfnPolicy", role.node.find_child("DefaultPolicy").node.default_child)
    # The framework's own grant covers every version of its functions by a wildcard; the machine calls none of them.
    invoke = Permission(actions=("lambda:InvokeFunction",), resources=tuple(functions))
    policy.policy_document = {"Version": "2012-10-17", "Statement": [invoke.statement]}
    acknowledge(policy, {INLINE_POLICY: "made by the CDK's framework for this one role, and narrowed to two functions"})


SOURCE_ROOT = Path(__file__).resolve().parents[1]
#: CloudFormation gives up this long after the provider's own limit, so that the provider's error is the one reported.
_MARGIN = 60
#: One question of a waiter: a handler's call to AWS may take 241 s (edge_handlers/service_client.py).
POLL_LIMIT = Duration.minutes(5)

_ARCHITECTURES = {"x86_64": lambda_.Architecture.X86_64, "aarch64": lambda_.Architecture.ARM_64}

#: As .gitignore has it: what editors and desktops leave in the folder would change every function.
_ALL_BUT_CODE = ["/*", "!/edge_handlers", "/edge_handlers/*", "!/edge_handlers/*.py", "/edge_handlers/.*"]


def handler_code() -> lambda_.Code:
    """The code of every handler, one asset."""
    return lambda_.Code.from_asset(str(SOURCE_ROOT), exclude=_ALL_BUT_CODE, ignore_mode=IgnoreMode.GIT)


def entry_name(entry: Callable[..., Any]) -> str:
    """What Lambda calls an entry point of a module of `edge_handlers`."""
    return f"{entry.__module__}.{entry.__name__}"


class HandlerProvider(Construct):
    """Runs a module of `edge_handlers` for custom resources; one of them serves many resources.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        handler: The module, with `on_event` and, where there is work to wait for, `is_complete`, which is asked until
            it is done.
        permissions: What the handler may do, besides writing its log.
        limit: How long one event may take in all, or the awaited work.
        query_interval: Time between two questions, with `is_complete` only.
        memory_mb: Memory of the function, MB.
        disk: Size of `/tmp`, 512 MiB unless given.
        python: Version of the function's Python where it matters, such as `3.11`.
        architecture: Of the function where it matters, as `uname -m` prints it; x86_64 unless given.
        accepted: Findings on the handler's role that its purpose brings along, see `acknowledge`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        handler: ModuleType,
        permissions: Sequence[Permission],
        limit: Duration | None = None,
        query_interval: Duration | None = None,
        memory_mb: int = 256,
        disk: Size | None = None,
        python: str = "3.13",
        architecture: str = "x86_64",
        accepted: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        limit = limit or Duration.minutes(5)
        waits = hasattr(handler, "is_complete")
        self._service_timeout = Duration.seconds(int(limit.to_seconds()) + _MARGIN)
        self._log_group = logs.LogGroup(
            self, "Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY
        )
        acknowledge(self._log_group, LOG)
        self._log_permission = logging_to(self._log_group.log_group_arn)
        role = ServiceRole(
            self, "Role", service="lambda.amazonaws.com", permissions=[self._log_permission, *permissions]
        )
        acknowledge(role, accepted or {})
        self._function_defaults: dict[str, Any] = {
            "runtime": lambda_.Runtime(f"python{python}", lambda_.RuntimeFamily.PYTHON),
            "architecture": _ARCHITECTURES[architecture],
            "code": handler_code(),
            "role": role.as_role(),
            "log_group": self._log_group,
            "memory_size": memory_mb,
            "ephemeral_storage_size": disk,
            "timeout": POLL_LIMIT if waits else limit,
        }
        on_event = self._function("OnEvent", handler.on_event)
        if not waits:
            self._provider = self._synchronous(on_event)
            return
        is_complete = self._function("IsComplete", handler.is_complete)
        self._provider = self._waiting(on_event, is_complete, limit, query_interval or Duration.seconds(15))

    def resource(self, scope: Construct, construct_id: str, contract: Contract) -> CustomResource:
        """Define a custom resource that the handler serves.

        Args:
            scope: Parent construct, of this stack or another one.
            construct_id: Id below it.
            contract: What the handler reads.

        Returns:
            The resource; its data by `get_att_string`.
        """
        return CustomResource(
            scope,
            construct_id,
            service_token=self._provider.service_token,
            resource_type=contract.TYPE,
            properties=contract.to_properties(),
            service_timeout=self._service_timeout,
        )

    def _function(self, construct_id: str, entry: Callable[..., Any]) -> lambda_.Function:
        function = lambda_.Function(self, construct_id, handler=entry_name(entry), **self._function_defaults)
        acknowledge(function, HANDLER)
        return function

    def _framework_role(self, construct_id: str, functions: Sequence[lambda_.Function]) -> ServiceRole:
        """The framework's own role in place of the managed policy that it would take."""
        call = Permission(
            actions=("lambda:InvokeFunction", "lambda:GetFunction"),
            resources=tuple(function.function_arn for function in functions),
        )
        return ServiceRole(self, construct_id, service="lambda.amazonaws.com", permissions=[self._log_permission, call])

    def _synchronous(self, on_event: lambda_.Function) -> cr.Provider:
        role = self._framework_role("FrameworkRole", [on_event])
        provider = cr.Provider(
            self,
            "Provider",
            on_event_handler=on_event,
            log_group=self._log_group,
            framework_on_event_role=role.as_role(),
        )
        acknowledge(provider.node.find_child("framework-onEvent"), FRAMEWORK)
        return provider

    def _waiting(
        self, on_event: lambda_.Function, is_complete: lambda_.Function, limit: Duration, query_interval: Duration
    ) -> cr.Provider:
        role = self._framework_role("FrameworkRole", [on_event, is_complete])
        waiter_role = self._framework_role("FrameworkWaiterRole", [on_event, is_complete])
        provider = cr.Provider(
            self,
            "Provider",
            on_event_handler=on_event,
            is_complete_handler=is_complete,
            log_group=self._log_group,
            framework_on_event_role=role.as_role(),
            framework_complete_and_timeout_role=waiter_role.as_role(),
            query_interval=query_interval,
            total_timeout=limit,
        )
        for name in ("onEvent", "isComplete", "onTimeout"):
            acknowledge(provider.node.find_child(f"framework-{name}"), FRAMEWORK)
        harden_waiter(provider, role)
        return provider
