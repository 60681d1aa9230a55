"""What the cloud has in memory and could not write: asked over the gateway, and noted in the state folder."""

from __future__ import annotations

import http.client
import json
import urllib.request
from pathlib import Path
from typing import Any

from twin.state import TwinState

SAVE_PATH = "/_ministack/twin/state"
"""GET tells what is not saved, POST saves first; both are the operator's."""

NETWORK_PATH = "/_ministack/twin/network"
"""POST ends the connections of devices whose network `twin.faults` has cut; the operator's, too."""
FLEET_PATH = "/_ministack/twin/things"
"""POST registers many things at once, DELETE takes them away; both are the operator's."""

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


def _ask(state: TwinState, method: str, limit_s: float) -> dict[str, str]:
    try:
        return dict(ask(state, method, SAVE_PATH, b"", limit_s)["unsaved"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return {}


def ask(state: TwinState, method: str, path: str, body: bytes, limit_s: float) -> dict[str, Any]:
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
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(signed(state, method, path, body), timeout=limit_s) as answer:
        return dict(json.load(answer))


def signed(state: TwinState, method: str, path: str, body: bytes = b"") -> urllib.request.Request:
    """A request for one of the twin's own paths, signed as its operator's.

    Args:
        state: Of a running twin.
        method: Of HTTP.
        path: The path.
        body: Of the request; none by default.
    """
    # Here, because loading it takes a while and most commands do without.
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    request = AWSRequest(method, f"{state.gateway_url}{path}", data=body)
    SigV4Auth(Credentials(state.account, state.secret), "sts", state.region).add_auth(request)
    return urllib.request.Request(  # noqa: S310
        request.url, data=body or None, headers=dict(request.headers), method=method
    )
