"""Joining by claim with a certificate signing request, as nucleus lite does; MiniStack makes keys only."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.ministack.patches import patch

TOPIC = "$aws/certificates/create-from-csr/json"
_OPERATION = "create-from-csr"


@patch(
    "services.iot._parse_fleet_provisioning_topic",
    why="devices may join with a certificate signing request",
    signature="(topic)",
)
def _parse_fleet_provisioning_topic(parse: Callable[[str], Any], topic: str) -> Any:
    return (_OPERATION, None) if topic == TOPIC else parse(topic)


@patch(
    "services.iot._fleet_provisioning_reply",
    why="devices may join with a certificate signing request",
    signature="async (account_id, region, operation, template_name, payload, connection)",
)
async def _fleet_provisioning_reply(
    reply: Callable[..., Awaitable[Any]],
    account_id: str,
    region: str,
    operation: str,
    template_name: str | None,
    payload: bytes,
    connection: dict[str, Any],
) -> Any:
    if operation != _OPERATION:
        return await reply(account_id, region, operation, template_name, payload, connection)
    try:
        request = json.loads(payload)
    except ValueError:
        request = None
    signing_request = request.get("certificateSigningRequest") if isinstance(request, dict) else None
    if not isinstance(signing_request, str):
        return iot._fleet_rejected("InvalidPayload", "Message cannot be parsed")
    with request_scope(account_id, region):
        certificate, key = iot._ensure_ca()
    try:
        pem = await asyncio.to_thread(iot.sign_certificate_request, certificate, key, signing_request)
    except ValueError:
        return iot._fleet_rejected("InvalidCertificateSigningRequest", "CSR violates constraints")
    identifier, token = iot.get_certificate_id(pem), secrets.token_urlsafe(48)
    with request_scope(account_id, region):
        # The same request again is the same certificate, as long as nobody has used it.
        iot._certificates.setdefault(identifier, iot._certificate_record(identifier, pem, "PENDING_ACTIVATION"))
        iot._drop_expired(iot._ownership_tokens)
        expiration = time.time() + iot._OWNERSHIP_TOKEN_SECONDS
        iot._ownership_tokens[token] = {"certificateId": identifier, "expiration": expiration}
    return "accepted", {"certificateId": identifier, "certificatePem": pem, "certificateOwnershipToken": token}
