"""What a role may do: statements, the ARNs that they speak of, and a role complete in one resource."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Aws, IResolvable
from aws_cdk import aws_iam as iam
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge

# Each look at a pseudo parameter asks the JavaScript side: once is enough.
PARTITION = Aws.PARTITION
REGION = Aws.REGION
ACCOUNT = Aws.ACCOUNT_ID
#: How the policy gate prints them.
_PRINTED = {PARTITION: "<AWS::Partition>", ACCOUNT: "<AWS::AccountId>", REGION: "<AWS::Region>"}


def arn(service: str, resource: str, *, region: str = REGION, account: str = ACCOUNT) -> str:
    """Compose the ARN of a resource in the deploying account.

    Args:
        service: Such as `iot`.
        resource: What follows the account, such as `thinggroup/edgewright-dev`.
        region: The stack's own by default; empty for global services.
        account: The deploying one by default; empty for S3.

    Returns:
        The ARN; CloudFormation fills partition, region and account in.
    """
    return f"arn:{PARTITION}:{service}:{region}:{account}:{resource}"


@dataclass(frozen=True)
class Permission:
    """Allows actions on resources.

    Attributes:
        actions: Exact actions, such as `s3:GetObject`.
        resources: ARNs; `*` only where the service knows no narrower one or a part of the name is not known.
        conditions: Condition operators, as in a policy document.
        wildcard_reason: Why a `*` in the resources is acceptable; required with one.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    wildcard_reason: str = ""

    def __post_init__(self) -> None:
        wild = [resource for resource in self.resources if "*" in resource]
        if wild and not self.wildcard_reason:
            raise ValueError(f"wildcard_reason must say why a wildcard is acceptable, got none for {', '.join(wild)}")

    @property
    def statement(self) -> dict[str, Any]:
        """The statement of a policy document."""
        statement = {"Effect": "Allow", "Action": list(self.actions), "Resource": list(self.resources)}
        return {**statement, "Condition": dict(self.conditions)} if self.conditions else statement

    @property
    def findings(self) -> dict[str, str]:
        """Findings of the policy gate that the wildcards cause, each with the reason."""
        return {
            f"IAM5[Resource::{_printed(resource)}]": self.wildcard_reason
            for resource in self.resources
            if "*" in resource
        }


def _printed(resource: str) -> str:
    for token, text in _PRINTED.items():
        resource = resource.replace(token, text)
    return resource


def pass_role(role_arn: str, service: str) -> Permission:
    """Hand a role to a service, and to no other one.

    Args:
        role_arn: The role.
        service: Such as `sagemaker.amazonaws.com`.
    """
    return Permission(("iam:PassRole",), (role_arn,), conditions={"StringEquals": {"iam:PassedToService": service}})


def logging_to(log_group_arn: str) -> Permission:
    """Write a log that is there."""
    return Permission(("logs:CreateLogStream", "logs:PutLogEvents"), (log_group_arn,))


def merged(permissions: Iterable[Permission]) -> list[Permission]:
    """Leave out what is said twice.

    Args:
        permissions: Any.

    Returns:
        Each statement once, in order.
    """
    found: list[Permission] = []
    for permission in permissions:
        if permission not in found:
            found.append(permission)
    return found


INLINE_POLICY = "NIST.800.53.R5-IAMNoInlinePolicy"
_INLINE_REASON = "the policy is of this role alone and ends with it; a managed one could be attached to others"


class ServiceRole(Construct):
    """A role whose whole policy is inline.

    A policy of its own would be a second resource that can be deleted before its user has finished, and grants from
    elsewhere would widen what is written here.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        service: Who may assume the role, such as `lambda.amazonaws.com`.
        permissions: All that the role may do.
        trust_conditions: When the service may assume it, as in a policy document; always by default.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        service: str,
        permissions: Sequence[Permission],
        trust_conditions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        trust: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        if trust_conditions:
            trust["Condition"] = dict(trust_conditions)
        self._permissions = list(permissions)
        self.resource = iam.CfnRole(
            self,
            "Resource",
            assume_role_policy_document={"Version": "2012-10-17", "Statement": [trust]},
            policies=self._policies(),
        )
        self.arn = self.resource.attr_arn
        self.name = self.resource.ref
        self._of_function = service == "lambda.amazonaws.com"
        acknowledge(self.resource, {INLINE_POLICY: _INLINE_REASON, **self._findings(permissions)})

    def allow(self, permission: Permission) -> None:
        """Add what could not be known when the role was defined, such as the name of a resource that refers to it."""
        self._permissions.append(permission)
        self.resource.policies = self._policies()
        acknowledge(self.resource, self._findings([permission]))

    def as_role(self, construct_id: str = "Role") -> iam.IRole:
        """Return the role for constructs of the CDK, which cannot add to it."""
        return iam.Role.from_role_arn(self, construct_id, self.arn, mutable=False)

    def _policies(self) -> list[IResolvable | iam.CfnRole.PolicyProperty]:
        statements = [permission.statement for permission in self._permissions]
        document = {"Version": "2012-10-17", "Statement": statements}
        return [iam.CfnRole.PolicyProperty(policy_name="Permissions", policy_document=document)]

    def _findings(self, permissions: Sequence[Permission]) -> dict[str, str]:
        reasons = {finding: reason for permission in permissions for finding, reason in permission.findings.items()}
        wild = (permission.wildcard_reason for permission in permissions if "*" in permission.resources)
        if self._of_function and (reason := next(wild, "")):
            reasons["Serverless-LambdaStarPermissions"] = reason
        return reasons
