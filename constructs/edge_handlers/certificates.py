"""Takes a device's certificates away.

A certificate can be found only through its thing or its policy. So the thing lets go of it last, and takes it back
if it could not be deleted: else it would stay in the account with nothing to find it by.
"""

import logging
from collections.abc import Callable
from typing import Any

from edge_handlers.service_client import GONE, ignoring, settling

LOG = logging.getLogger(__name__)
_SHOWN = 5


def release(
    thing: str,
    policy: str,
    iot: Any,
    is_registered: Callable[[str], bool],
    *,
    keep: bool = False,
    spare: str | None = None,
) -> int:
    """Detach every principal of a thing, and delete the certificates that nothing else uses.

    Args:
        thing: Name of a thing; one that is gone has no principals.
        policy: The fleet's IoT policy.
        iot: A boto3 IoT client.
        is_registered: Whether a thing of that name is a device of a registry, which goes on needing the policy.
        keep: Only take the policy away: thing and certificates were there before the registry.
        spare: A principal that stays as it is.

    Returns:
        How many certificates were deleted.
    """
    deleted = 0
    for principal in _principals(thing, iot):
        if principal == spare:
            continue
        others = [name for name in things_of(principal, iot) if name != thing]
        if keep:
            with ignoring(GONE):
                iot.detach_policy(policyName=policy, target=principal)
            continue
        if ":cert/" in principal and not others:
            delete_certificate(principal, thing, iot)
            deleted += 1
            continue
        if not any(is_registered(name) for name in others):
            with ignoring(GONE):
                iot.detach_policy(policyName=policy, target=principal)
        _detach_thing(thing, principal, iot)
        LOG.info("kept %s: it belongs to %s too", principal, others or "no thing of the registry")
    return deleted


class PolicyInUseError(RuntimeError):
    """A policy is attached to what is not the fleet's, so that it cannot be deleted."""


def check_targets(policy: str, iot: Any) -> None:
    """Refuse to take a fleet away whose policy hangs on something else than certificates; nothing is changed.

    Args:
        policy: The fleet's IoT policy; one that is gone has no targets.
        iot: A boto3 IoT client.

    Raises:
        PolicyInUseError: It is attached to a thing group or to an identity of Cognito.
    """
    _refuse(policy, [target for target in _targets(policy, iot) if ":cert/" not in target])


def delete_unattached(policy: str, iot: Any, is_registered: Callable[[str], bool] = lambda _thing: False) -> int:
    """Delete the certificates that carry the policy but belong to no thing.

    They are what is left when a device lost its power between making its certificate and attaching it.

    Args:
        policy: The fleet's IoT policy; one that is gone has none.
        iot: A boto3 IoT client.
        is_registered: Whether a thing of that name is a device of a registry, which goes on needing the policy.

    Returns:
        How many certificates were deleted.

    Raises:
        PolicyInUseError: The policy stays attached: to a certificate of a thing, or to what is no certificate.
    """
    deleted, used = 0, []
    for target in _targets(policy, iot):
        if ":cert/" not in target:
            used.append(target)
        elif things := things_of(target, iot):
            if not any(is_registered(thing) for thing in things):
                used.append(f"{target} of {', '.join(things)}")
        else:
            delete_certificate(target, None, iot)
            deleted += 1
    _refuse(policy, used)
    return deleted


def _targets(policy: str, iot: Any) -> list[str]:
    with ignoring(GONE):
        pages = iot.get_paginator("list_targets_for_policy").paginate(policyName=policy)
        return [target for page in pages for target in page["targets"]]
    return []


def _refuse(policy: str, used: list[str]) -> None:
    if used:
        more = f" and {len(used) - _SHOWN} more" if len(used) > _SHOWN else ""
        raise PolicyInUseError(
            f"IoT policy {policy} must be attached to the fleet's certificates only when it is deleted, it is to "
            f"{', '.join(used[:_SHOWN])}{more}: aws iot detach-policy --policy-name {policy} "
            f"--target '{used[0].partition(' ')[0]}', then destroy again"
        )


def delete_certificate(arn: str, thing: str | None, iot: Any) -> None:
    """Detach the policies, deactivate, detach the thing, delete; one that is gone on the way is fine.

    Args:
        arn: The certificate.
        thing: A thing that it is attached to, the only one, if any.
        iot: A boto3 IoT client.
    """
    name = arn.rpartition("/")[2]
    with ignoring(GONE):
        pages = iot.get_paginator("list_attached_policies").paginate(target=arn)
        for policy in [policy["policyName"] for page in pages for policy in page["policies"]]:
            with ignoring(GONE):
                iot.detach_policy(policyName=policy, target=arn)
        iot.update_certificate(certificateId=name, newStatus="INACTIVE")
    if thing is not None:
        _detach_thing(thing, arn, iot)
    try:
        with ignoring(GONE):
            # Detaching takes a few seconds to reach every part of IoT Core.
            settling(
                lambda: iot.delete_certificate(certificateId=name, forceDelete=False),
                "DeleteConflictException",
                "CertificateStateException",
            )
            LOG.info("deleted certificate %s", name)
    except Exception:
        if thing is not None:
            with ignoring(GONE):
                iot.attach_thing_principal(thingName=thing, principal=arn)
        raise


def _detach_thing(thing: str, principal: str, iot: Any) -> None:
    with ignoring(GONE):
        iot.detach_thing_principal(thingName=thing, principal=principal)


def certificates_of(thing: str, iot: Any) -> list[str]:
    """List the certificates of a thing, without its other principals; of one that is gone, none.

    Args:
        thing: Its name.
        iot: A boto3 IoT client.
    """
    return [principal for principal in _principals(thing, iot) if ":cert/" in principal]


def _principals(thing: str, iot: Any) -> list[str]:
    with ignoring(GONE):
        pages = iot.get_paginator("list_thing_principals").paginate(thingName=thing)
        return [principal for page in pages for principal in page["principals"]]
    return []


def things_of(principal: str, iot: Any) -> list[str]:
    """List the things that a principal is attached to; of one that is gone, none.

    Args:
        principal: Its ARN.
        iot: A boto3 IoT client.
    """
    with ignoring(GONE):
        pages = iot.get_paginator("list_principal_things").paginate(principal=principal)
        return [thing for page in pages for thing in page["things"]]
    return []
