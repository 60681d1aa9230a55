"""Who is let in at the gateway: hosts, origins, signatures, the twin's own paths, and what comes by the device port.

AWS checks every signature, whoever asks; so does the twin, with and without TWIN_AUTH. The gateway listens on loopback,
where every page of a browser and every user of the machine can reach it: the operator is who knows the twin's secret.
"""

from __future__ import annotations

import contextvars
import json
import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, quote

from ministack import app as ministack_app
from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import AuthError, CredentialResolutionError, ResolvedCredential
from ministack.core.responses import _account_from_sts_session
from ministack.core.router import detect_service, extract_access_key_id
from ministack.core.sigv4 import decode_header_value
from ministack.services import s3

from twin.cloud.ministack.patches import patch, require
from twin.cloud_process import Settings
from twin.ports import FOREIGN_SITES, own_hosts

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({("GET", "/_ministack/ready"), ("GET", "/_ministack/iot/ca.pem")})
"""Told to everybody: whether the twin is ready, and the certificate that its listeners show anyway."""

_CAPABILITY = re.compile(r"/_ministack/cfn-(?:response|signal)/[0-9a-f-]{36}")
"""The URLs that CloudFormation hands out, with a random number in them; on AWS they are presigned."""

_OWN_PATHS = ("/_ministack/", "/_localstack/", "/health")
_DEVICE_HOST = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?::443)?")

device_connections: set[int] = set()
"""Local ports of the connections that the AWS front has to the gateway: what comes on them is a device's request."""

_of_a_device: contextvars.ContextVar[bool] = contextvars.ContextVar("of_a_device", default=False)

for name, signature in (
    ("core.iam_evaluator.authenticate", "(access_key_id, account_id)"),
    ("core.iam_evaluator.find_iam_access_key_account", "(access_key_id)"),
    ("core.responses._account_from_sts_session", "(access_key_id)"),
    ("services.s3._verify_presigned_sigv4", "(method, path, headers, query_params)"),
    ("app._credential_failure", "(service, iam_action, request_id, denied, headers)"),
):
    require(name, why="signatures are checked before a request is served", signature=signature)


class RefusedError(Exception):
    """A request that is not let in.

    Args:
        message: What the rule is, what came, and what to do.
        failure: Of the signature, if it is that which failed; told in the form of the service that was asked.
    """

    def __init__(self, message: str, failure: AuthError | None = None) -> None:
        super().__init__(message)
        self.failure = failure


class Request:
    """What the door looks at: method, decoded path, header lines, query.

    Args:
        scope: Of ASGI.
    """

    def __init__(self, scope: Scope) -> None:
        self.method, self.path = str(scope["method"]), str(scope["path"])
        self.lines: list[tuple[bytes, bytes]] = list(scope.get("headers", []))
        self.raw_path: str = (scope.get("raw_path") or quote(self.path).encode()).decode("latin-1")
        self.query = parse_qs(scope.get("query_string", b"").decode("utf-8", "replace"), keep_blank_values=True)
        self.headers = {name.decode("latin-1").lower(): decode_header_value(value) for name, value in self.lines}
        self.by_device = bool(scope.get("client")) and scope["client"][1] in device_connections

    def all_of(self, name: str) -> list[str]:
        """Values of a header, one for each line of it."""
        return [decode_header_value(value) for line, value in self.lines if line.decode("latin-1").lower() == name]


class Doors:
    """An ASGI application around MiniStack's: serves what is let in, refuses the rest, and adds no CORS headers.

    Args:
        inner: What serves the requests that are let in.
        gateway_port: Of the gateway, which its clients name in the Host header.
        operator: Access key id of the operator.
    """

    def __init__(self, inner: Application, gateway_port: int, operator: str) -> None:
        self._inner, self._operator = inner, operator
        self._hosts = own_hosts(gateway_port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection's request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            # Nothing of the twin speaks WebSocket.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        try:
            self.look(request)
            body = await _whole(receive)
            if body is None:
                return
            if not self.is_open(request):
                self.authenticate(request, body)
        except RefusedError as refusal:
            await _refuse(send, request, refusal)
            return
        _of_a_device.set(request.by_device)
        await self._inner(scope, _again(body, receive), _without_cors(send))

    def is_open(self, request: Request) -> bool:
        """Whether a request needs no signature; never by the device port."""
        if request.by_device:
            return False
        capability = request.method == "PUT" and _CAPABILITY.fullmatch(request.path) is not None
        return capability or (request.method, request.path) in OPEN_PATHS

    def look(self, request: Request) -> None:
        """What can be said without the body.

        Raises:
            RefusedError: The request is from another site's page, for another host, unsigned, or not for a device.
        """
        hosts = request.all_of("host")
        if request.by_device:
            known = len(hosts) == 1 and _DEVICE_HOST.fullmatch(hosts[0].lower()) is not None
        else:
            known = len(hosts) == 1 and hosts[0].lower() in self._hosts
        if not known:
            wanted = "a name of AWS" if request.by_device else " or ".join(sorted(self._hosts))
            raise RefusedError(f"Host must be {wanted}, got {', '.join(hosts)[:100] or 'none'}: use AWS_ENDPOINT_URL")
        # Browsers send an Origin with all that changes something; older ones leave Sec-Fetch-Site out.
        if request.all_of("origin") or FOREIGN_SITES & set(request.all_of("sec-fetch-site")):
            raise RefusedError("requests of a browser's page are refused: use an AWS SDK or the command line")
        if self.is_open(request):
            return
        if len(request.all_of("authorization")) > 1:
            raise RefusedError("there must be one Authorization header, got several")
        key = extract_access_key_id(request.headers, request.query)
        if not key:
            raise RefusedError(_UNSIGNED)
        if request.by_device and request.path.startswith(_OWN_PATHS):
            raise RefusedError("the twin's own paths are not for devices")
        # Before the body is read: whoever has no key cannot fill the memory.
        found = _resolve(key)
        if isinstance(found, CredentialResolutionError):
            raise RefusedError("the access key is unknown", AuthError(found.code, found.message))
        handed_out = iam_evaluator._s3_presigned_query(request.query) and not request.all_of("authorization")
        if request.by_device and found.principal_type != "AssumedRole" and not handed_out:
            raise RefusedError("devices use the credentials of a role, got another access key: see docs/security.md")
        if request.path.startswith(_OWN_PATHS) and key != self._operator:
            raise RefusedError('the twin\'s own paths are for its operator: eval "$(python -m twin env)"')

    def authenticate(self, request: Request, body: bytes) -> None:
        """Check the signature; MiniStack finds it checked.

        Raises:
            RefusedError: It is not the one of its access key for this request.
        """
        iam_evaluator.pin_signed_request(request.method, request.raw_path, request.query, request.lines)
        pinned = iam_evaluator._signed_request.get()
        key = extract_access_key_id(request.headers, request.query)
        if pinned is None or pinned.access_key_id != key:
            raise RefusedError(_UNSIGNED)
        if pinned.s3_scoped:
            # Stays pinned: other services than S3 refuse it.
            if s3._verify_presigned_sigv4(request.method, request.path, request.headers, request.query) is not None:
                raise RefusedError("the presigned URL is not valid", AuthError("SignatureDoesNotMatch", _MISMATCH))
            return
        iam_evaluator.pin_signed_body(body)
        checked = iam_evaluator.authenticate(key, _account_of(key))
        if isinstance(checked, AuthError):
            raise RefusedError("the signature is not valid", checked)
        if checked is None:
            raise RefusedError(_UNSIGNED)


_UNSIGNED = 'requests must be signed: set the variables of `eval "$(python -m twin env)"`'
_MISMATCH = "the signature of the presigned URL does not match, or it has expired"


def _account_of(key: str) -> str:
    return _account_from_sts_session(key) or iam_evaluator.find_iam_access_key_account(key) or _operator[0]


def _resolve(key: str) -> ResolvedCredential | CredentialResolutionError:
    try:
        return iam_evaluator.resolve_credential(key, _account_of(key))
    except iam_evaluator.AmbiguousAccessKeyError:
        return CredentialResolutionError("InvalidClientTokenId", "the access key is not unique")


async def _whole(receive: Receive) -> bytes | None:
    """The body as it came; None if the client goes before its end."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body in one piece, then what comes after it."""
    pieces = [body]

    async def receive_again() -> dict[str, Any]:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(), "more_body": False}
        return await receive()

    return receive_again


def _without_cors(send: Send) -> Send:
    """Leaves out what would let a browser's page read an answer."""

    async def send_less(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kept = [line for line in message.get("headers", []) if not line[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": kept}
        await send(message)

    return send_less


async def _refuse(send: Send, request: Request, refusal: RefusedError) -> None:
    if refusal.failure is not None:
        service = detect_service(request.method, request.path, request.headers, request.query)
        status, headers, body = ministack_app._credential_failure(
            service, "", str(uuid.uuid4()), refusal.failure, request.headers
        )
    else:
        status, headers = 403, {"Content-Type": "application/json"}
        body = json.dumps({"__type": "AccessDeniedException", "message": str(refusal)})
    content = body.encode() if isinstance(body, str) else body
    content = b"" if request.method == "HEAD" else content
    headers = {**headers, "Content-Length": str(len(content)), REFUSED: "1"}
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await _without_cors(send)({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": content})


REFUSED = "x-twin-refused"
"""Header of an answer to a request that was not let in."""

_operator: list[str] = ["", ""]


@patch(
    "core.iam_evaluator.is_root_access_key",
    "services.sts.is_root_access_key",
    why="the account's administrator is the operator alone, not who names `test`, another account, or nothing",
    signature="(access_key_id)",
)
def _is_root_access_key(_by_ministack: Callable[[str], bool], access_key_id: str) -> bool:
    return bool(access_key_id) and access_key_id == _operator[0]


@patch(
    "core.iam_evaluator._is_root_key",
    why="the operator's requests are signed, too: their signature is checked as everybody's",
    signature="(access_key_id)",
)
def _is_unsigned_root(_by_ministack: Callable[[str], bool], access_key_id: str) -> bool:  # noqa: ARG001
    return False


_ANY_TOKEN = iam_evaluator._SESSION_TOKEN_NOT_CHECKED


@patch(
    "core.iam_evaluator.resolve_credential",
    "services.sts.resolve_credential",
    "services.s3.resolve_credential",
    why="the operator's secret is the twin's own, not a well-known one",
    signature="(access_key_id, account_id=None, session_token=Ellipsis)",
)
def _resolve_credential(
    resolve: Callable[..., Any], access_key_id: str, account_id: str | None = None, session_token: Any = _ANY_TOKEN
) -> ResolvedCredential | CredentialResolutionError:
    account, secret = _operator
    if not access_key_id or access_key_id != account:
        return resolve(access_key_id, account_id, session_token)
    if session_token is not _ANY_TOKEN and session_token:
        return iam_evaluator._invalid_session_token()
    return ResolvedCredential(
        access_key_id=account,
        secret_access_key=secret,
        account_id=account,
        principal_arn=f"arn:aws:iam::{account}:root",
        principal_id=account,
        principal_type="Root",
        source_access_key_id=account,
    )


@patch(
    "app.pin_signed_request",
    why="the signature has been checked when MiniStack gets the request",
    signature="(method, raw_path, query_params, raw_headers, handshake=False)",
)
def _pinned_before(_pin: Callable[..., None], *_arguments: Any, **_named: Any) -> None:
    return


class _Evaluates:
    """True where policies are evaluated: with TWIN_AUTH=1, and always for what comes by the device port."""

    def __init__(self, always: bool) -> None:
        self._always = always

    def __bool__(self) -> bool:
        return self._always or _of_a_device.get()


@patch("app.AUTH", why="a device has the rights of its role, also where no policies are evaluated", signature="bool")
def _evaluates(by_ministack: bool) -> _Evaluates:
    return _Evaluates(by_ministack)


def guarded(inner: Application, settings: Settings) -> Doors:
    """The application that the gateway serves."""
    return Doors(inner, settings.gateway_port, settings.account)


def install(settings: Settings) -> None:
    """Tell who the operator is."""
    _operator[:] = [settings.account, settings.operator_secret]
