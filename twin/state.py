"""What is known of a twin between two commands: `state.json` in its state folder.

And what the cloud has in memory and could not write: asked over the gateway, and noted in the state folder.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import urllib.request
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from twin import TwinError
from twin.clock import Clock
from twin.files import write_whole
from twin.process import ProcessIdentity

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TwinState:
    """Where a twin runs: the cloud's process (pid, start in s since the boot), its ports on 127.0.0.1, account, clock.

    The operator's access key is the account, the secret is random and the twin's own for as long as its state is there.
    """

    home: Path
    pid: int
    started: float
    gateway_port: int
    mqtt_port: int
    data_port: int
    front_port: int
    proxy_port: int
    region: str
    account: str
    secret: str = field(repr=False)
    clock: str = field(default="", repr=False)

    @property
    def gateway_url(self) -> str:
        """The AWS endpoint of every service."""
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def running(self) -> bool:
        """Whether the cloud's process lives; another process with its pid does not count."""
        return ProcessIdentity(self.pid, self.started).process() is not None

    @property
    def ports(self) -> dict[str, int]:
        """The listeners' ports by name."""
        return {name: getattr(self, name) for name in PORT_NAMES}

    def environment(self) -> dict[str, str]:
        """Variables that point the CDK command line, boto3 and the AWS command line at this twin, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.gateway_url,
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "CDK_DEFAULT_ACCOUNT": self.account,
            "CDK_DEFAULT_REGION": self.region,
            # Else the command line leaves a process behind that tells AWS of each run, and asks npm for newer versions.
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "CDK_DISABLE_VERSION_CHECK": "true",
            **_NO_AWS_FILES,
            **past_proxies(os.environ),
        }

    def client_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `boto3.client` as the account's administrator."""
        return {
            "endpoint_url": self.gateway_url,
            "region_name": self.region,
            "aws_access_key_id": self.account,
            "aws_secret_access_key": self.secret,
        }


def keep_to_this_machine(environment: MutableMapping[str, str]) -> None:
    """Take out what would lead a client of the twin elsewhere: the user's AWS settings, and proxies for its addresses.

    Args:
        environment: Is changed; what `TwinState.environment` sets stays.
    """
    for name in foreign_settings(environment):
        del environment[name]
    environment.update(_NO_AWS_FILES, **past_proxies(environment))


def foreign_settings(environment: Mapping[str, str]) -> list[str]:
    """The names of AWS settings that `TwinState.environment` does not replace, such as a profile."""
    return sorted(name for name in environment if name.startswith("AWS_") and name not in _AWS_SETTINGS)


def past_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """`NO_PROXY` with this machine's addresses, in both spellings as clients read the one or the other.

    Args:
        environment: The user's.

    Returns:
        The two variables; nothing if there is no proxy.
    """
    if not any(environment[name] for name in environment if name.lower() in _PROXIES):
        return {}
    spared = [name for name in (environment.get("no_proxy") or environment.get("NO_PROXY") or "").split(",") if name]
    spared += [name for name in ("127.0.0.1", "localhost") if name not in spared]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(spared))


_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_AWS_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
_AWS_SETTINGS = (
    *_NO_AWS_FILES,
    *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED"),
)
PORT_NAMES = ("gateway_port", "mqtt_port", "data_port", "front_port", "proxy_port")
_STORED = {each.name: each.type for each in fields(TwinState) if each.name != "home"}


def default_home() -> Path:
    """The state folder: `TWIN_HOME`, or `.twin` in the current folder."""
    return Path(os.environ.get("TWIN_HOME") or ".twin").resolve()


def load_state(home: Path) -> TwinState | None:
    """Read a twin's state; the twin need not run. This process and its children keep to this machine from then on.

    Args:
        home: The state folder.

    Returns:
        The state, or None if no twin was started in this folder.

    Raises:
        TwinError: If the file is damaged.
    """
    path = home / STATE_FILE
    keep_to_this_machine(os.environ)
    try:
        stored = json.loads(path.read_text("utf-8"))
        expected: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
        stored.setdefault("clock", "")  # of an earlier release
        wrong = [name for name, kind in _STORED.items() if not isinstance(stored[name], expected[str(kind)])]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of the wrong type")
        Clock.read(stored["clock"])
        return TwinState(home=home, **{name: stored[name] for name in _STORED})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise TwinError(
            f"{path} must be the state that `python -m twin up` wrote, got a damaged file ({type(exc).__name__}: "
            f"{exc}): run `python -m twin down`, which ends what runs in this folder and removes the file, then `up`"
        ) from exc


def save_state(state: TwinState) -> None:
    """Write `state.json`, at once or not at all; only its owner may read it."""
    stored = {name: value for name, value in asdict(state).items() if name in _STORED}
    write_whole(state.home / STATE_FILE, json.dumps(stored, indent=2) + "\n", private=True)


def remove_state(home: Path) -> None:
    """Forget the twin of this folder; the persisted cloud state stays."""
    (home / STATE_FILE).unlink(missing_ok=True)


SAVE_PATH = "/_ministack/twin/state"
"""GET tells what is not saved, POST saves first; both are the operator's."""

NETWORK_PATH = "/_ministack/twin/network"
"""POST ends the connections of devices whose network `twin.faults` has cut; the operator's, too."""
FLEET_PATH = "/_ministack/twin/things"
"""POST registers many things at once, DELETE takes them away; both are the operator's."""

_LOOK_S = 5.0
_GLANCE_S = 1.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAVE_S = 30.0


def unsaved_mark(home: Path) -> Path:
    """The file that is there from the cloud's start until its last state is written: removing needs no room."""
    return home / "unsaved"


def look_unsaved(state: TwinState) -> dict[str, str]:
    """What the last attempt could not write.

    Args:
        state: Of a running twin.

    Returns:
        The cause by service; empty also if the cloud does not answer within 5 s.
    """
    return _ask(state, "GET", _LOOK_S)


def save_all(state: TwinState) -> dict[str, str]:
    """Let the cloud write all that it has in memory; at most 30 s.

    Args:
        state: Of a running twin.

    Returns:
        As of `look_unsaved`.
    """
    return _ask(state, "POST", _SAVE_S)


def unsaved_text(unsaved: dict[str, str]) -> str:
    """Services by cause, such as `iot, s3 ([Errno 28] No space left on device)`."""
    causes = sorted(set(unsaved.values()))
    return "; ".join(f"{', '.join(sorted(name for name in unsaved if unsaved[name] == why))} ({why})" for why in causes)


def lacking(state: TwinState) -> str:
    """What keeps a running twin from writing its state, such as `needs room in out/twin: No space left on device`.

    Empty if nothing does, if something other than room is lacking, and if the cloud does not answer within a second.
    """
    causes = " ".join(_ask(state, "GET", _GLANCE_S).values())
    found = [text for text in map(os.strerror, _NO_ROOM) if text in causes]
    return f"needs room in {state.home}: {found[0]}" if found else ""


def _ask(state: TwinState, method: str, limit_s: float) -> dict[str, str]:
    try:
        return dict(ask_cloud(state, method, SAVE_PATH, b"", limit_s)["unsaved"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return {}


def ask_cloud(state: TwinState, method: str, path: str, body: bytes, limit_s: float) -> dict[str, Any]:
    """Ask the cloud on one of the twin's own paths, as its operator.

    Args:
        state: Of a running twin.
        method: HTTP method.
        path: Below `/_ministack/twin/`.
        body: JSON, or nothing.
        limit_s: How long to wait for the answer.

    Returns:
        The answer's JSON.

    Raises:
        OSError, HTTPException, ValueError: The cloud does not answer, or refuses (`urllib.error.HTTPError`).
    """
    # Here, because loading it takes a while and most commands do without.
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, f"{state.gateway_url}{path}", data=body)
    SigV4Auth(Credentials(state.account, state.secret), "sts", state.region).add_auth(request)
    signed = urllib.request.Request(  # noqa: S310
        request.url, data=body or None, headers=dict(request.headers), method=method
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(signed, timeout=limit_s) as answer:
        return dict(json.load(answer))
