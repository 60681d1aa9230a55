"""The settings of the cloud's process, as `twin.lifecycle` hands them over in its environment; calls to the cloud."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from twin.cloud_process import SECRET_VARIABLE


@dataclass(frozen=True)
class RoleCredentials:
    """An access key, its secret, its session token, and when they end (UTC)."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expiration: datetime


@dataclass(frozen=True)
class Settings:
    """Where the twin's cloud runs and listens, always on 127.0.0.1. The operator's access key is the account."""

    region: str
    account: str
    home: Path
    gateway_port: int
    mqtt_port: int
    data_port: int
    front_port: int
    proxy_port: int
    operator_secret: str = field(default="", kw_only=True, repr=False)

    @property
    def gateway_url(self) -> str:
        """The AWS endpoint of every service: `http://127.0.0.1:<gateway port>`."""
        return f"http://127.0.0.1:{self.gateway_port}"

    def client_arguments(self, region: str, credentials: RoleCredentials) -> dict[str, str]:
        """Keyword arguments for `boto3.client` that calls this cloud with a role's credentials."""
        return {
            "endpoint_url": self.gateway_url,
            "region_name": region,
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
            "aws_session_token": credentials.session_token,
        }

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings that `twin.lifecycle` hands to the cloud's process.

        Returns:
            The settings. `TWIN_HOME`, `TWIN_OPERATOR_SECRET` and the ports `GATEWAY_PORT`, `IOT_MTLS_PORT`,
            `TWIN_DATA_PORT`, `TWIN_FRONT_PORT`, `TWIN_PROXY_PORT` are required; the region defaults to us-east-1, the
            account to zeros. The secret is taken out of the environment: Lambda functions inherit that.

        Raises:
            ValueError: If a required variable is missing or a port is not in 1..65535; all of them are named.
        """
        mistakes: list[str] = []
        ports = [
            _port(name, mistakes)
            for name in ("GATEWAY_PORT", "IOT_MTLS_PORT", "TWIN_DATA_PORT", "TWIN_FRONT_PORT", "TWIN_PROXY_PORT")
        ]
        home = os.environ.get("TWIN_HOME", "")
        if not home:
            mistakes.append("TWIN_HOME must name the twin's state folder, got nothing")
        secret = os.environ.pop(SECRET_VARIABLE, "")
        if not secret:
            mistakes.append(f"{SECRET_VARIABLE} must be the operator's secret, got nothing")
        if mistakes:
            raise ValueError("; ".join(mistakes) + ": start the cloud with `python -m twin up`")
        return cls(
            os.environ.get("MINISTACK_REGION", "us-east-1"),
            os.environ.get("MINISTACK_ACCOUNT_ID", "000000000000"),
            Path(home).resolve(),
            *ports,
            operator_secret=secret,
        )


def _port(name: str, mistakes: list[str]) -> int:
    value = os.environ.get(name, "")
    if value.isdigit() and 0 < int(value) < 65536:
        return int(value)
    mistakes.append(f"{name} must be a port from 1 to 65535, got {value!r}")
    return 0
