"""What exists in the twin's account: the proof that a destroyed app has left nothing."""

from __future__ import annotations

from twin.account import LISTINGS, Account
from twin.state import TwinState

BOOTSTRAP = "bootstrap"
"""Key of what `cdk bootstrap` made; everything else should be gone after `cdk destroy --all`."""


def take(state: TwinState) -> dict[str, list[str]]:
    """List everything in the account.

    Args:
        state: Of a running twin.

    Returns:
        Sorted names or ids by kind, kinds without any left out; under `bootstrap` as `kind name` what `cdk bootstrap`
        made. Not counted: the default VPC with its parts, AWS's own policies and keys, keys whose deletion is
        scheduled, terminated instances.

    Raises:
        TwinError: If a listing fails; it names the call.
    """
    account = Account(state.client_arguments())
    found = {listing.kind: account.names(listing) for listing in LISTINGS}
    found["component versions"] = account.component_versions()
    found["KMS keys"] = account.usable_keys()
    found.update(account.vpc_parts())
    bootstrap = account.bootstrap_resources()
    kept: dict[str, list[str]] = {}
    apart: list[str] = []
    for kind, names in found.items():
        apart += [f"{kind} {name}" for name in names if name in bootstrap]
        if left := sorted(name for name in names if name not in bootstrap):
            kept[kind] = left
    if apart:
        kept[BOOTSTRAP] = sorted(apart)
    return kept


def is_empty(found: dict[str, list[str]]) -> bool:
    """Whether nothing but the CDK bootstrap is left."""
    return not any(names for kind, names in found.items() if kind != BOOTSTRAP)
