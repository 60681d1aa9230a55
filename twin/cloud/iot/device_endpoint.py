"""The names under which devices find the twin: AWS's own, in DescribeEndpoint and in the server certificate.

A device reaches them through the CONNECT proxy, so neither a hosts file nor a trust store has to change. Clients with
an endpoint URL of their own (boto3 with AWS_ENDPOINT_URL) do not use these names.
"""

from __future__ import annotations

import json
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import iot

from twin.cloud.registry import Settings


def endpoint_names(account: str, region: str) -> dict[str, str]:
    """Endpoint type → host name, as DescribeEndpoint answers."""
    prefix = iot._endpoint_prefix(account)
    return {
        "iot:Data-ATS": f"{prefix}-ats.iot.{region}.amazonaws.com",
        "iot:CredentialProvider": f"{prefix}.credentials.iot.{region}.amazonaws.com",
    }


def certificate_names(region: str) -> list[str]:
    """The DNS names that the server certificate needs besides MiniStack's own."""
    return [
        f"*.iot.{region}.amazonaws.com",
        f"*.credentials.iot.{region}.amazonaws.com",
        f"*.s3.{region}.amazonaws.com",
        "*.s3.amazonaws.com",
        f"*.{region}.amazonaws.com",
    ]


def install(settings: Settings) -> None:
    """Answer DescribeEndpoint with AWS's names and put them into the certificate of every TLS listener."""
    describe_by_ministack, names_by_ministack = iot._describe_endpoint, iot._mtls_server_cert_sans

    def describe_endpoint(query: dict[str, str]) -> Any:
        name = endpoint_names(get_account_id(), get_region()).get(query.get("endpointType", "iot:Data-ATS"))
        if name is None:
            return describe_by_ministack(query)
        return 200, {"Content-Type": "application/json"}, json.dumps({"endpointAddress": name}).encode()

    def server_certificate_names() -> tuple[list[str], list[str]]:
        names, addresses = names_by_ministack()
        return list(dict.fromkeys([*names, *certificate_names(settings.region)])), addresses

    iot._describe_endpoint = describe_endpoint
    iot._mtls_server_cert_sans = server_certificate_names
