"""Takes a device's certificates away.

A certificate can be found only through its thing or its policy. So the thing lets go of it last, and takes it back
if it could not be deleted: else it would stay in the account with nothing to find it by.
"""

import logging
from collections.abc import Callable
from typing import Any

from edge_handlers.service_client import GONE, ignoring, settling

LOG = logging.getLogger(__name__)


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


def delete_unattached(policy: str, iot: Any) -> int:
    """Delete the certificates that carry the policy but belong to no thing.

    They are what is left when a device lost its power between making its certificate and attaching it.

    Args:
        policy: The fleet's IoT policy; one that is gone has none.
        iot: A boto3 IoT client.

    Returns:
        How many certificates were deleted.
    """
    targets: list[str] = []
    with ignoring(GONE):
        pages = iot.get_paginator("list_targets_for_policy").paginate(policyName=policy)
        targets = [target for page in pages for target in page["targets"]]
    unattached = [target for target in targets if ":cert/" in target and not things_of(target, iot)]
    for certificate in unattached:
        delete_certificate(certificate, None, iot)
    return len(unattached)


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
