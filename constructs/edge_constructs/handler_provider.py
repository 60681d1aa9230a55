"""A custom resource's handler as one Lambda function with exact permissions; a waiter where there is work to await."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aws_cdk import CustomResource, Duration, IgnoreMode, RemovalPolicy, Size, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from edge_constructs.permission import Permission, ServiceRole, acknowledge, arn, logging_to
from edge_handlers.answering import GIVEN_UP, LIMIT_S, WAITER
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
LOG = {
    "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the log names resources and errors of a deploy, no data; CloudWatch "
    "encrypts it with a key of its own"
}


_WAITER = {
    "SF1": "the waiter only repeats one call; the handler that it calls logs every step",
    "SF2": "the waiter only repeats one call: there is no path through it to trace",
    "Serverless-StepFunctionStateMachineXray": "the waiter only repeats one call: there is no path through it to trace",
}

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


def _log_and_role(
    scope: Construct, permissions: Sequence[Permission], before: str = ""
) -> tuple[logs.LogGroup, ServiceRole]:
    """What a function writes its log to, and its role, whose ids begin with `before`."""
    log = logs.LogGroup(
        scope, f"{before}Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY
    )
    acknowledge(log, LOG)
    allowed = [logging_to(log.log_group_arn), *permissions]
    return log, ServiceRole(scope, f"{before}Role", service="lambda.amazonaws.com", permissions=allowed)


def called_function(
    scope: Construct,
    construct_id: str,
    *,
    before: str = "",
    entry: Callable[..., Any],
    permissions: Sequence[Permission],
    timeout: Duration,
    environment: Mapping[str, str],
    called: str,
    awaited: str,
    name: str | None = None,
) -> lambda_.Function:
    """Define a function that no custom resource calls, with its log and its role.

    Args:
        scope: Parent construct of the three.
        construct_id: The function's id below it.
        before: What the ids `Log` and `Role` begin with.
        entry: Entry point of a module of `edge_handlers`.
        permissions: What it may do, besides writing its log.
        timeout: Of one call.
        environment: Its variables.
        called: Why its concurrency needs no bound: who calls it, and how often.
        awaited: Why no failed call is kept: who waits for the answer.
        name: Its name, where somebody knows it.
    """
    log, role = _log_and_role(scope, permissions, before)
    function = lambda_.Function(
        scope,
        construct_id,
        function_name=name,
        handler=f"{entry.__module__}.{entry.__name__}",
        runtime=lambda_.Runtime("python3.13", lambda_.RuntimeFamily.PYTHON),
        code=handler_code(),
        role=role.as_role(),
        log_group=log,
        timeout=timeout,
        memory_size=256,
        environment=environment,
    )
    findings = dict.fromkeys(("NIST.800.53.R5-LambdaDLQ", "Serverless-LambdaDLQ"), awaited)
    acknowledge(function, {**HANDLER, "NIST.800.53.R5-LambdaConcurrency": called, **findings})
    return function


class HandlerProvider(Construct):
    """Runs a module of `edge_handlers` for custom resources; one of them serves many resources.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        handler: The module, with `handler` and, where there is work to wait for, `is_complete`, which is asked until
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
        # A name of its own: function and state machine know each other, and a reference there and back is a circle.
        waiter = f"{Stack.of(self).stack_name}-{handler.__name__.rpartition('.')[2].replace('_', '-')}"
        machine_arn = arn("states", f"stateMachine:{waiter}")
        waiting = [
            Permission(("states:StartExecution",), (machine_arn,)),
            Permission(("states:ListExecutions",), (machine_arn,)),
            Permission(
                ("states:StopExecution",),
                (arn("states", f"execution:{waiter}:*"),),
                wildcard_reason="executions of its own waiter: what was cancelled is awaited no more",
            ),
        ]
        log_group, role = _log_and_role(self, [*(waiting if waits else ()), *permissions])
        acknowledge(role, accepted or {})
        # CloudFormation lets nobody change a resource's service token. Where former releases had the function of the
        # CDK's provider framework, this one takes its place: the same id, updated.
        place = Construct(self, "Provider")
        self._function = lambda_.Function(
            place,
            "framework-onEvent",
            handler=f"{handler.__name__}.handler",
            runtime=lambda_.Runtime(f"python{python}", lambda_.RuntimeFamily.PYTHON),
            architecture=_ARCHITECTURES[architecture],
            code=handler_code(),
            role=role.as_role(),
            log_group=log_group,
            memory_size=memory_mb,
            ephemeral_storage_size=disk,
            timeout=POLL_LIMIT if waits else limit,
            environment={WAITER: machine_arn, LIMIT_S: str(int(limit.to_seconds()))} if waits else None,
            # An event that comes when CloudFormation has given up, or again after one that failed, would make what a
            # rollback has taken away.
            max_event_age=self._service_timeout,
            retry_attempts=0,
        )
        acknowledge(self._function, HANDLER)
        asynchronous = self._function.node.find_child("EventInvokeConfig").node.find_child("Resource")
        acknowledge(asynchronous, {"Serverless-LambdaAsyncFailureDestination": _SYNCHRONOUS})
        self._waiter = (
            self._wait(waiter, limit, query_interval or Duration.seconds(15), self._function.function_arn)
            if waits
            else None
        )

    def resource(self, scope: Construct, construct_id: str, contract: Contract) -> CustomResource:
        """Define a custom resource that the handler serves.

        Args:
            scope: Parent construct, of this stack or another one.
            construct_id: Id below it.
            contract: What the handler reads.

        Returns:
            The resource; its data by `get_att_string`.
        """
        made = CustomResource(
            scope,
            construct_id,
            service_token=self._function.function_arn,
            resource_type=contract.TYPE,
            properties=contract.to_properties(),
            service_timeout=self._service_timeout,
        )
        if self._waiter:
            made.node.add_dependency(self._waiter)
        return made

    def _wait(self, name: str, limit: Duration, interval: Duration, function_arn: str) -> sfn.CfnStateMachine:
        """The state machine that asks the function at intervals, and tells it when the time is over."""
        role = ServiceRole(
            self,
            "WaiterRole",
            service="states.amazonaws.com",
            permissions=[Permission(("lambda:InvokeFunction",), (function_arn,))],
        )
        every = ["States.ALL"]
        retry = {
            "ErrorEquals": every,
            "IntervalSeconds": int(interval.to_seconds()),
            "MaxAttempts": int(limit.to_seconds() // interval.to_seconds()),
            "BackoffRate": 1,
        }
        caught = {"ErrorEquals": every, "ResultPath": f"$.{GIVEN_UP}", "Next": "GiveUp"}
        task = {"Type": "Task", "Resource": function_arn}
        machine = sfn.CfnStateMachine(
            self,
            "Waiter",
            state_machine_name=name,
            role_arn=role.arn,
            definition={
                "StartAt": "Ask",
                "TimeoutSeconds": int(self._service_timeout.to_seconds()),
                "States": {
                    "Ask": {**task, "Retry": [retry], "Catch": [caught], "End": True},
                    "GiveUp": {**task, "End": True},
                },
            },
        )
        acknowledge(machine, _WAITER)
        return machine
