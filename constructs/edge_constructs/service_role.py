"""A role for one AWS service, complete in one resource."""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import IResolvable
from aws_cdk import aws_iam as iam
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.permission import Permission

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
