"""What the cloud has in memory and could not write: asked over the gateway, and noted in the state folder."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path

from twin.state import TwinState

SAVE_PATH = "/_ministack/twin/state"
"""GET tells what is not saved, POST saves first; both are the operator's."""

NETWORK_PATH = "/_ministack/twin/network"
"""POST ends the connections of devices whose network `twin.faults` has cut; the operator's, too."""

LOOK_S = 5.0
SAVE_S = 30.0


def mark(home: Path) -> Path:
    """The file that is there from the cloud's start until its last state is written: removing needs no room."""
    return home / "unsaved"


def look(state: TwinState) -> dict[str, str]:
    """What the last attempt could not write.

    Args:
        state: Of a running twin.

    Returns:
        The cause by service; empty also if the cloud does not answer within 5 s.
    """
    return _ask(state, "GET", LOOK_S)


def save(state: TwinState) -> dict[str, str]:
    """Let the cloud write all that it has in memory; at most 30 s.

    Args:
        state: Of a running twin.

    Returns:
        As of `look`.
    """
    return _ask(state, "POST", SAVE_S)


def as_text(unsaved: dict[str, str]) -> str:
    """Services by cause, such as `iot, s3 ([Errno 28] No space left on device)`."""
    causes = sorted(set(unsaved.values()))
    return "; ".join(f"{', '.join(sorted(name for name in unsaved if unsaved[name] == why))} ({why})" for why in causes)


def signed(state: TwinState, method: str, path: str) -> urllib.request.Request:
    """A request for one of the twin's own paths, signed as its operator's.

    Args:
        state: Of a running twin.
        method: Of HTTP.
        path: The path.
    """
    # Here, because loading it takes a while and most commands do without.
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, f"{state.gateway_url}{path}")
    SigV4Auth(Credentials(state.account, state.secret), "sts", state.region).add_auth(request)
    return urllib.request.Request(request.url, headers=dict(request.headers), method=method)  # noqa: S310


def _ask(state: TwinState, method: str, limit_s: float) -> dict[str, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(signed(state, method, SAVE_PATH), timeout=limit_s) as answer:
            return dict(json.load(answer)["unsaved"])
    except (OSError, urllib.error.URLError, http.client.HTTPException, ValueError, KeyError):
        return {}
