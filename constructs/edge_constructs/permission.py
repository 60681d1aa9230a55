"""What a role may do: statements, the ARNs that they speak of, a role in one resource; and accepted findings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Acknowledgment, Aws, IResolvable, Validations
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct

#: What a finding's name starts with to the pack that reports it; any other is one of AwsSolutions.
_PACKS = {"NIST.800.53.R5-": "NIST.800.53.R5", "Serverless-": "Serverless", "Edge-": "EdgeChecks"}


def finding_id(finding: str) -> str:
    """Compose the full id that the packs know a finding by.

    Args:
        finding: `EC29` or `IAM5[Resource::*]` of AwsSolutions; of another pack with its prefix, such as
            `NIST.800.53.R5-LambdaDLQ`, `Serverless-LambdaTracing` or `Edge-RequiresPrivilege`.
    """
    for prefix, pack in _PACKS.items():
        if finding.startswith(prefix):
            return f"{pack}::{finding}"
    return f"AwsSolutions::AwsSolutions-{finding}"


def acknowledge(construct: IConstruct, reasons: Mapping[str, str]) -> None:
    """Accept findings on one construct and what it holds; call it on the narrowest construct that has them.

    Args:
        construct: Where the findings are.
        reasons: Exact finding, see `finding_id`, to why the risk is taken.
    """
    if reasons:
        Validations.of(construct).acknowledge(
            *(Acknowledgment(id=finding_id(finding), reason=reason) for finding, reason in reasons.items())
        )


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
    # A policy variable, such as that of the credential provider.
    return re.sub(r"\$\{([\w:-]+)\}", r"<\1>", resource)


def pass_role(role_arn: str, service: str) -> Permission:
    """Hand a role to a service, and to no other one.

    Args:
        role_arn: The role.
        service: Such as `sagemaker.amazonaws.com`.
    """
    return Permission(("iam:PassRole",), (role_arn,), conditions={"StringEquals": {"iam:PassedToService": service}})


def everywhere(*actions: str) -> Permission:
    """Allow actions for which their service knows no resource.

    Args:
        actions: Such as `iot:ListThings`.
    """
    which = "this action" if len(actions) == 1 else "these actions"
    return Permission(actions, ("*",), wildcard_reason=f"the service knows no resource for {which}")


def ending_certificates(reason: str) -> Permission:
    """Take policies from certificates of devices, and delete these.

    Args:
        reason: Why it is not known whose.
    """
    verbs = ("iot:DetachPolicy", "iot:UpdateCertificate", "iot:DeleteCertificate")
    return Permission(verbs, (arn("iot", "cert/*"),), wildcard_reason=reason)


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


OF_THIS_ACCOUNT: Mapping[str, Any] = {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
#: Services that tell for whose sake they assume a role, as their guides say under "confused deputy".
SAY_FOR_WHOM = frozenset(
    {
        "codebuild.amazonaws.com",
        "codepipeline.amazonaws.com",
        "iot.amazonaws.com",
        "sagemaker.amazonaws.com",
        "states.amazonaws.com",
        "vpc-flow-logs.amazonaws.com",
    }
)
#: Services that take a role without a source that its trust policy could ask for, and what keeps others off.
SAY_NOTHING = {
    "credentials.iot.amazonaws.com": "a role alias takes a role of its own account only, and iam:PassRole is asked for",
    "ec2.amazonaws.com": "an instance profile holds a role of its own account only, and iam:PassRole is asked for",
    "lambda.amazonaws.com": "a function takes a role of its own account only, and iam:PassRole is asked for",
}


class ServiceRole(Construct):
    """A role whose whole policy is inline, for a service that acts for this account.

    A policy of its own would be a second resource that can be deleted before its user has finished, and grants from
    elsewhere would widen what is written here.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        service: Who may assume the role, such as `lambda.amazonaws.com`.
        permissions: All that the role may do.
        trust_conditions: When the service may assume it, as in a policy document; for this account by default, where
            the service says for whom it asks.

    Raises:
        ValueError: Nobody has looked up whether the service says so.
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
        if service not in SAY_FOR_WHOM | SAY_NOTHING.keys():
            known = ", ".join(sorted(SAY_FOR_WHOM | SAY_NOTHING.keys()))
            raise ValueError(
                f"service must be one of {known}, got {service}: look up its confused deputy prevention and add it"
            )
        trust: dict[str, Any] = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        if conditions := trust_conditions or (OF_THIS_ACCOUNT if service in SAY_FOR_WHOM else None):
            trust["Condition"] = dict(conditions)
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
