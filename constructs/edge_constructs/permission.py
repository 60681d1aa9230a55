"""What a role may do: one statement, and the names of AWS resources that it speaks of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aws_cdk import Aws

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
