"""Accepted findings of the policy gate."""

from collections.abc import Mapping

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct

PACK = "AwsSolutions"


def acknowledge(construct: IConstruct, reasons: Mapping[str, str]) -> None:
    """Accept findings on one construct and what it holds; call it on the narrowest construct that has them.

    Args:
        construct: Where the findings are.
        reasons: Exact finding, such as `EC29` or `IAM5[Resource::*]`, to why the risk is taken.
    """
    if reasons:
        Validations.of(construct).acknowledge(
            *(Acknowledgment(id=f"{PACK}::{PACK}-{finding}", reason=reason) for finding, reason in reasons.items())
        )
