"""The credential endpoint: a device certificate turned into temporary credentials of a role alias's role."""

from __future__ import annotations

import re
from datetime import UTC
from typing import Any

from ministack.core.responses import request_scope

from twin.cloud.iot.device_identity import DeviceIdentity
from twin.cloud.iot.http_message import HttpError, RequestHead
from twin.cloud.iot.role_alias import ROLE_ALIASES
from twin.cloud.registry import role_session

SERVICE_PRINCIPAL = "credentials.iot.amazonaws.com"

_PATH = re.compile(r"/role-aliases/([\w=,@-]{1,128})/credentials", re.ASCII)


def credentials(identity: DeviceIdentity | None, head: RequestHead) -> dict[str, Any]:
    """Answer `GET /role-aliases/<alias>/credentials`.

    Args:
        identity: Of the client certificate; None if it sent none that is active.
        head: The request; its header `x-amzn-iot-thingname` names a thing that the certificate has to be attached to.

    Returns:
        `{"credentials": {accessKeyId, secretAccessKey, sessionToken, expiration}}`, the expiration in UTC with `Z`.

    Raises:
        HttpError: 403 for a certificate that may not, 404 for an unknown alias, 400 or 405 for another request.
    """
    match = _PATH.fullmatch(head.target)
    if match is None:
        raise HttpError(400, f"target must be /role-aliases/<role alias>/credentials, got {head.target[:200]}")
    if head.method != "GET":
        raise HttpError(405, f"method must be GET, got {head.method[:20]}")
    if identity is None:
        raise HttpError(403, "Access Denied: an active device certificate must be presented")
    thing = head.headers.get("x-amzn-iot-thingname")
    things = identity.things()
    if thing is not None and thing not in things:
        raise HttpError(403, f"Access Denied: certificate must be attached to thing {thing[:128]}")
    with request_scope(identity.account, identity.region):
        alias = ROLE_ALIASES.get(match[1])
        if alias is None:
            raise HttpError(404, f"role alias must exist, got {match[1]}")
        acting_as = thing or (things[0] if len(things) == 1 else None)
        if not identity.allows("iot:AssumeRoleWithCertificate", alias["roleAliasArn"], acting_as):
            raise HttpError(403, f"Access Denied: an IoT policy must allow iot:AssumeRoleWithCertificate on {match[1]}")
        try:
            taken = role_session(
                alias["roleArn"], identity.certificate_id, SERVICE_PRINCIPAL, alias["credentialDurationSeconds"]
            )
        except PermissionError as error:
            raise HttpError(403, f"Access Denied: {error}") from error
    return {
        "credentials": {
            "accessKeyId": taken.access_key_id,
            "secretAccessKey": taken.secret_access_key,
            "sessionToken": taken.session_token,
            "expiration": taken.expiration.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    }
