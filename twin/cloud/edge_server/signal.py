"""Tells CloudFormation how the provisioning of an instance ended, as the user data script does."""

from __future__ import annotations

import json
import logging
import urllib.request

logger = logging.getLogger("twin.edge_server")

_LIMIT_S = 10.0


def send(url: str, thing_name: str, reason: str, *, success: bool) -> None:
    """Send the outcome; one that cannot be sent is logged, and CloudFormation waits until its time is over.

    Args:
        url: Of the wait condition's handle; nothing is sent without one.
        thing_name: Names the sender.
        reason: Shown in the stack's events.
        success: Whether the instance is a core device.
    """
    if not url.startswith("http://127.0.0.1:"):
        return
    signal = {"Status": "SUCCESS" if success else "FAILURE", "Reason": reason, "UniqueId": thing_name, "Data": ""}
    body = json.dumps(signal).encode()
    request = urllib.request.Request(url, body, {"Content-Type": ""}, method="PUT")  # noqa: S310 (checked above)
    try:
        urllib.request.urlopen(request, timeout=_LIMIT_S).close()  # noqa: S310 (checked above)
    except OSError as exc:
        logger.warning("the outcome of %s could not be sent to CloudFormation: %s", thing_name, exc)
