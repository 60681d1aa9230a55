"""What exists in the twin's account: the proof that a destroyed app has left nothing."""

from __future__ import annotations

from twin.account import LISTINGS, Account, Listing
from twin.errors import TwinError
from twin.operator import OPERATORS
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
        scheduled, terminated instances, and what the operator's clients (`predict`, `ui`) have while they run.

    Raises:
        TwinError: If a listing fails; it names the call.
    """
    account = Account(state.client_arguments())
    found = {listing.kind: account.names(listing) for listing in LISTINGS}
    found["component versions"] = account.component_versions()
    found["KMS keys"] = account.usable_keys()
    found.update(account.vpc_parts())
    _leave_out_operators(account, found)
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


def _leave_out_operators(account: Account, found: dict[str, list[str]]) -> None:
    """Take out policies and certificates of connected clients: they are none of the app's, and go with the client."""
    for policy in [name for name in found["IoT policies"] if name.startswith(OPERATORS)]:
        found["IoT policies"].remove(policy)
        targets = Listing("", "iot", "list_targets_for_policy", "targets[]", {"policyName": policy})
        try:
            held = {target.rpartition("/")[2] for target in account.names(targets)}
        except TwinError:  # it went this moment
            continue
        found["certificates"] = [name for name in found["certificates"] if name not in held]


def is_empty(found: dict[str, list[str]]) -> bool:
    """Whether nothing but the CDK bootstrap is left."""
    return not any(names for kind, names in found.items() if kind != BOOTSTRAP)
