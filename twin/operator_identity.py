"""A temporary certificate with a policy of its own, for a client that is not a device."""

from __future__ import annotations

import contextlib
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from twin.devices.identity import BOUNDED, certificate_authority, discard_certificate, make_certificate
from twin.state import TwinState

_ACTIONS = ("iot:Connect", "iot:Publish", "iot:Subscribe", "iot:Receive")


def make_identity(state: TwinState, name: str, undo: contextlib.ExitStack) -> ssl.SSLContext:
    """Make certificate and policy.

    Args:
        state: Of a running twin.
        name: Of the policy.
        undo: Gets what takes both away again; also of a making that fails half way.

    Returns:
        A client's TLS context that trusts the twin's certificate authority and shows the certificate.

    Raises:
        ClientError, BotoCoreError, OSError: If the twin cannot be reached or refuses.
    """
    iot = boto3.client("iot", config=BOUNDED, **state.client_arguments())
    statement = {"Effect": "Allow", "Action": list(_ACTIONS), "Resource": "*"}
    iot.create_policy(policyName=name, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    undo.callback(_delete_policy, iot, name)
    made = make_certificate(iot, name)
    undo.callback(discard_certificate, iot, made.arn, name)
    context = ssl.create_default_context(cadata=certificate_authority(state.gateway_url))
    with tempfile.TemporaryDirectory(prefix="operator-") as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        certificate.write_text(made.pem)
        key.write_text(made.private_key)
        context.load_cert_chain(certificate, key)
    return context


def _delete_policy(iot: Any, name: str) -> None:
    # The twin may be gone, and with it what would have to be taken away.
    with contextlib.suppress(ClientError, BotoCoreError):
        iot.delete_policy(policyName=name)
