"""Lambda entry: answers AWS IoT within its five seconds whether a device may join."""

import logging
import os
from typing import Any

from edge_handlers.provisioning_hook.logic import Fleet, NotAllowedError, check
from edge_handlers.service_client import quick_client

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.INFO)


def handler(event: Any, context: Any) -> dict[str, bool]:  # noqa: ARG001 - Lambda passes it
    """Answer one request; an error of AWS's raises, which AWS IoT takes for a no that may be repeated."""
    fleet = Fleet(
        prefix=os.environ["THING_PREFIX"],
        group=os.environ["THING_GROUP"],
        reserved=frozenset(os.environ["RESERVED_THINGS"].split(",")),
    )
    try:
        thing = check(event, fleet, quick_client("iot"))
    except NotAllowedError as exc:
        LOG.warning("refused: %s", exc)
        return {"allowProvisioning": False}
    LOG.info("allowed: %s", thing)
    return {"allowProvisioning": True}
