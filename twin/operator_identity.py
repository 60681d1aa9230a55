"""A temporary certificate with a policy of its own, for a client that is not a device."""

from __future__ import annotations

import contextlib
import json
import ssl
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.state import TwinState

_BOUNDED = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
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
    iot = boto3.client("iot", config=_BOUNDED, **state.client_arguments())

    def later(operation: Any, **arguments: Any) -> None:
        undo.callback(_at_the_end, operation, arguments)

    statement = {"Effect": "Allow", "Action": list(_ACTIONS), "Resource": "*"}
    iot.create_policy(policyName=name, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    later(iot.delete_policy, policyName=name)
    made = iot.create_keys_and_certificate(setAsActive=True)
    arn, identifier = made["certificateArn"], made["certificateId"]
    later(iot.delete_certificate, certificateId=identifier, forceDelete=True)
    later(iot.update_certificate, certificateId=identifier, newStatus="INACTIVE")
    iot.attach_policy(policyName=name, target=arn)
    later(iot.detach_policy, policyName=name, target=arn)
    with urllib.request.urlopen(f"{state.gateway_url}/_ministack/iot/ca.pem", timeout=20) as answer:  # noqa: S310
        context = ssl.create_default_context(cadata=answer.read().decode())
    with tempfile.TemporaryDirectory(prefix="operator-") as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        certificate.write_text(made["certificatePem"])
        key.write_text(made["keyPair"]["PrivateKey"])
        context.load_cert_chain(certificate, key)
    return context


def _at_the_end(operation: Any, arguments: dict[str, Any]) -> None:
    # The twin may be gone, and with it what would have to be taken away.
    with contextlib.suppress(ClientError, BotoCoreError):
        operation(**arguments)
