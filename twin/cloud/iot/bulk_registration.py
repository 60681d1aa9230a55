"""Many things at once: registered, and taken away again, in one request of the operator.

The same functions of MiniStack as CreateThing, CreateCertificateFromCsr, AttachPolicy, AttachThingPrincipal and
AddThingToThingGroup; what is left out are five requests a device.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from ministack.core import x509_utils
from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.greengrass.core_devices import CORE_DEVICES
from twin.cloud.ministack.patches import patch
from twin.cloud.settings import Settings

LIMIT = 500
"""Things in a request: the answer stays below a megabyte, and others are served in between."""

Send = Callable[[dict[str, Any]], Awaitable[None]]

_settings: list[Settings] = []


class RefusedError(Exception):
    """A call was not successful; the text is the service's."""


# It imports at its first use, what is patched must be there.
x509_utils._require_crypto()


@patch(
    "core.x509_utils.serialization",
    why="the authority's key is read and checked once: 40 ms for each certificate otherwise",
    signature="_ModuleWithDeprecations",
)
def _reads_once(by_ministack: ModuleType) -> _ReadsOnce:
    return _ReadsOnce(by_ministack)


_known: dict[str, tuple[int, object]] = {}


@patch(
    "services.iot._mtls_refresh_trust_anchors",
    why="a handshake looks through all certificates only where one has come since",
    signature="(ctx)",
)
def _refresh_trust_anchors(refresh: Callable[[Any], None], context: Any) -> None:
    now = {
        name: (len(store), next(reversed(store), None))
        for name, store in (("authorities", iot._ca_certificates._data), ("devices", iot._certificates._data))
    }
    if now != _known or not iot._mtls_loaded_anchors:
        refresh(context)
        _known.update(now)


_scopes: list[tuple[str, str]] = []
_scopes_of: list[tuple[int, Any]] = []
"""Number of certificates, and the last one, when the accounts and regions that have some were looked through."""


@patch(
    "services.iot._mtls_active_registrations",
    why="a certificate is looked up at each connect, not looked for among those of all devices",
    signature="(cert_id, status='ACTIVE')",
)
def _active_registrations(
    _look_for: Callable[..., Any], cert_id: str, status: str | None = "ACTIVE"
) -> list[tuple[str, str, dict[str, Any]]]:
    data = iot._certificates._data
    if _scopes_of != (now := [(len(data), next(reversed(data), None))]):
        _scopes[:] = sorted({(account, region) for account, region, _certificate in data})
        _scopes_of[:] = now
    found = [(*scope, iot._certificates.get_scoped(*scope, cert_id)) for scope in _scopes]
    return [
        (account, region, record)
        for account, region, record in found
        if isinstance(record, dict) and status in (None, record.get("status"))
    ]


class _ReadsOnce:
    """The module, with private keys that are read once."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._read = functools.lru_cache(maxsize=4)(module.load_pem_private_key)

    def load_pem_private_key(self, data: bytes, password: bytes | None = None) -> Any:
        return self._read(data, password)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


async def answer(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    """Answer the operator: POST registers, DELETE takes away.

    The body of a POST is `{"policy", "group", "attributes", "requests": {thing: certificate request (PEM)}}`, its
    answer `{"certificates": {thing: PEM}}`; a thing that exists is refused. That of a DELETE is `{"things": [name]}`;
    what is gone already is fine.
    """
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    (settings,) = _settings
    document: dict[str, Any]
    try:
        request = json.loads(body)
        with request_scope(settings.account, settings.region):
            if scope["method"] == "POST":
                document = {"certificates": await _register(request)}
            else:
                await _remove([str(thing) for thing in request["things"]])
                document = {}
        status = 200
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        status, document = 400, {"message": f"the request is not understood: {exc!r}"}
    except RefusedError as exc:
        status, document = 400, {"message": str(exc)}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


async def _register(request: dict[str, Any]) -> dict[str, str]:
    policy, group = str(request["policy"]), request.get("group")
    requests = dict(request["requests"])
    if len(requests) > LIMIT:
        raise RefusedError(f"requests must be at most {LIMIT}, got {len(requests)}")
    if taken := [thing for thing in requests if thing in iot._things]:
        raise RefusedError(f"things must be new, got {', '.join(taken[:5])}, which exist")
    certificates = {}
    for thing, csr in requests.items():
        await asyncio.sleep(0)  # devices are served in between
        _checked(iot._create_thing(thing, {"attributePayload": {"attributes": request.get("attributes") or {}}}))
        made = _checked(iot._create_certificate_from_csr({"certificateSigningRequest": csr}, {"setAsActive": "true"}))
        arn = made["certificateArn"]
        _checked(iot._change_policy_target(policy, arn, attach=True))
        path, headers = f"/things/{thing}/principals", {"x-amzn-principal": arn}
        _checked(iot._handle_thing_principals("PUT", path, headers, b"", {}))
        if group:
            _checked(await iot._add_thing_to_group({"thingName": thing, "thingGroupName": group}))
        certificates[thing] = made["certificatePem"]
    return certificates


async def _remove(things: list[str]) -> None:
    for thing in things:
        await asyncio.sleep(0)
        record = iot._things.get(thing) or {}
        for arn in list(record.get("principals", [])):
            identifier = arn.rsplit("/", 1)[-1]
            path, headers = f"/things/{thing}/principals", {"x-amzn-principal": arn}
            iot._handle_thing_principals("DELETE", path, headers, b"", {})
            iot._handle_certificate("PUT", f"/certificates/{identifier}", b'{"newStatus": "INACTIVE"}', {})
            iot._handle_certificate("DELETE", f"/certificates/{identifier}", b"", {"forceDelete": "true"})
        iot._delete_thing(thing)
        CORE_DEVICES.pop(thing, None)


def _checked(response: tuple[int, Any, bytes]) -> dict[str, Any]:
    status, _headers, body = response
    content: dict[str, Any] = json.loads(body or b"{}")
    if status >= 400:
        raise RefusedError(str(content.get("message") or content))
    return content


def install(settings: Settings) -> None:
    """Know the account."""
    _settings[:] = [settings]
