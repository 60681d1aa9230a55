"""The function that gives the edge server its certificate, and the end of the certificates before it."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.handler_provider import HANDLER, LOG, HandlerProvider, entry_name, handler_code
from edge_constructs.permission import Permission, ServiceRole, acknowledge, arn, logging_to
from edge_handlers import server_join

_CERTIFICATES = "a certificate's id is known when it is made"
_NO_RESOURCE = "the service knows no resource for these actions; the function names the thing"
_ASKED_ONCE = "one instance calls it, once in its life"
_FUNCTION = {
    **HANDLER,
    "NIST.800.53.R5-LambdaConcurrency": _ASKED_ONCE,
    "NIST.800.53.R5-LambdaDLQ": "the instance waits for the answer, and reports a refusal to CloudFormation",
    "Serverless-LambdaDLQ": "the instance waits for the answer, and reports a refusal to CloudFormation",
}


class ServerJoin(Construct):
    """Lets one machine join as one thing, once, and no machine as any other.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The function's name, which the machine's user data and its role know.
        thing: The thing.
        thing_group: The group that it joins.
        policy: IoT policy of its certificate.
        fingerprint: Of the machine.

    Attributes:
        function: To be made before the machine.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        thing: str,
        thing_group: str,
        policy: str,
        fingerprint: str,
    ) -> None:
        super().__init__(scope, construct_id)
        self._contract = server_join.ServerJoin(thing, policy, fingerprint)
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY)
        role = ServiceRole(
            self,
            "Role",
            service="lambda.amazonaws.com",
            permissions=[
                logging_to(log.log_group_arn),
                *_taking_away(thing),
                Permission(
                    ("iot:AddThingToThingGroup",),
                    (arn("iot", f"thing/{thing}"), arn("iot", f"thinggroup/{thing_group}")),
                ),
                Permission(
                    ("iot:AttachPolicy",),
                    (arn("iot", "cert/*"), arn("iot", f"policy/{policy}")),
                    wildcard_reason=_CERTIFICATES,
                ),
                Permission(
                    ("iot:CreateCertificateFromCsr", "iot:DescribeEndpoint"), ("*",), wildcard_reason=_NO_RESOURCE
                ),
            ],
        )
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=name,
            handler=entry_name(server_join.on_request),
            runtime=lambda_.Runtime("python3.13", lambda_.RuntimeFamily.PYTHON),
            code=handler_code(),
            role=role.as_role(),
            log_group=log,
            timeout=Duration.minutes(1),
            memory_size=256,
            environment={
                "THING_NAME": thing,
                "THING_GROUP": thing_group,
                "POLICY_NAME": policy,
                "FINGERPRINT": fingerprint,
            },
        )
        acknowledge(log, LOG)
        acknowledge(self.function, _FUNCTION)

    def confirm_after(self, *last: Construct) -> None:
        """End former certificates when all else is done: nothing that fails later may want them back.

        Args:
            last: What must be made before.
        """
        thing = self._contract.thing
        provider = HandlerProvider(
            self,
            "Confirmation",
            handler=server_join,
            permissions=[
                *_taking_away(thing),
                Permission(("iot:DescribeCertificate",), (arn("iot", "cert/*"),), wildcard_reason=_CERTIFICATES),
                Permission(("greengrass:GetCoreDevice",), (arn("greengrass", f"coreDevices:{thing}"),)),
            ],
            limit=Duration.minutes(10),
        )
        provider.resource(self, "Joined", self._contract).node.add_dependency(*last)


def _taking_away(thing: str) -> list[Permission]:
    """Look at the thing and its certificates, mark it, and delete certificates."""
    return [
        Permission(("iot:DescribeThing", "iot:UpdateThing"), (arn("iot", f"thing/{thing}"),)),
        Permission(
            ("iot:DetachPolicy", "iot:UpdateCertificate", "iot:DeleteCertificate"),
            (arn("iot", "cert/*"),),
            wildcard_reason=_CERTIFICATES,
        ),
        Permission(
            (
                "iot:AttachThingPrincipal",
                "iot:DetachThingPrincipal",
                "iot:ListAttachedPolicies",
                "iot:ListPrincipalThings",
                "iot:ListThingPrincipals",
            ),
            ("*",),
            wildcard_reason=_NO_RESOURCE,
        ),
    ]
