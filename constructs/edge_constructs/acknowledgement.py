"""Accepted findings of the policy gate."""

from collections.abc import Mapping

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct

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
