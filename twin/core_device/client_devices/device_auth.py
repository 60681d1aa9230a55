"""What AWS's client device auth component does: which client device a certificate is, and what it may say.

Who it is says the cloud; what it said is kept for when the line is cut. What it may say is in `deviceGroups`, after the
component's documentation for its format version 2021-03-05, up to 2.5.x: wildcards in resources since 2.4, the thing's
name as a variable since 2.4.4.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import ssl
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twin.clock import CLOCK
from twin.core_device.cloud.credentials import TokenExchange, signed_headers
from twin.core_device.cloud.https import CloudHttp
from twin.core_device.configuration import Configuration
from twin.core_device.errors import RequestRejectedError
from twin.core_device.files import Documents

log = logging.getLogger(__name__)

KEPT = 2500
"""Devices whose identity is kept; the one that was verified longest ago goes (`maxActiveAuthTokens` by default)."""

QUEUE = 100
"""Clients that wait for the cloud at once; one more is turned away (`cloudRequestQueueSize` by default)."""

_TIMEOUT_S = 5.0


class UnreachableError(Exception):
    """The cloud gives no answer, or none about the question: it is not reached, is busy, or the device may not ask."""


class DeviceCloud:
    """The Greengrass calls of a core device that are about its client devices.

    The paths for certificate authorities and for what is verified are not documented: these are the twin's.

    Args:
        configuration: Endpoints and thing name.
        http: The way to the cloud.
        token_exchange: Credentials for the one call that is signed by the device's role.
    """

    def __init__(self, configuration: Configuration, http: CloudHttp, token_exchange: TokenExchange) -> None:
        nucleus, self._thing = configuration.nucleus, configuration.system.thing_name
        self._base = f"https://{nucleus.data_endpoint}:{nucleus.data_plane_port}/greengrass"
        self._control, self._region = f"https://greengrass.{nucleus.region}.amazonaws.com", nucleus.region
        self._http, self._token_exchange = http, token_exchange

    async def put_authorities(self, certificates: Sequence[str]) -> None:
        """Tell which authorities client devices are to trust (PutCertificateAuthorities)."""
        body = {"coreDeviceCertificates": list(certificates)}
        await self._ask("PUT", f"{self._base}/v2/certificateAuthorities", body)

    async def verify(self, certificate_pem: str, certificate_id: str, thing: str) -> str:
        """Why a certificate is not a client device's of this core; empty if it is.

        VerifyClientDeviceIdentity, then VerifyClientDeviceIoTCertificateAssociation.
        """
        try:
            body = {"clientDeviceCertificate": certificate_pem}
            await self._ask("POST", f"{self._base}/v2/verifyClientDeviceIdentity", body)
            pair = {"clientDeviceThingName": thing, "clientDeviceCertificateId": certificate_id}
            await self._ask("POST", f"{self._base}/v2/verifyClientDeviceIoTCertificateAssociation", pair)
        except RequestRejectedError as exc:
            return str(exc)
        return ""

    async def associated(self) -> set[str]:
        """Things of this core's client devices (ListClientDevicesAssociatedWithCoreDevice, by the device's role)."""
        found: set[str] = set()
        token = ""
        while True:
            query = "maxResults=100" + (f"&nextToken={quote(token, safe='')}" if token else "")
            url = f"{self._control}/greengrass/v2/coreDevices/{quote(self._thing, safe='')}/associatedClientDevices"
            credentials = await self._token_exchange.credentials()
            headers = signed_headers(f"{url}?{query}", self._region, credentials, service="greengrass")
            answer = await self._ask("GET", f"{url}?{query}", headers=headers, identified=False)
            found |= {str(entry["thingName"]) for entry in answer.get("associatedClientDevices") or ()}
            token = str(answer.get("nextToken") or "")
            if not token:
                return found

    async def connectivity(self) -> list[dict[str, Any]]:
        """Where client devices are told to reach this core (GetConnectivityInfo)."""
        answer = await self._ask("GET", self._connectivity_url())
        return [entry for entry in answer.get("ConnectivityInfo") or () if isinstance(entry, dict)]

    async def update_connectivity(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace that (UpdateConnectivityInfo)."""
        await self._ask("PUT", self._connectivity_url(), {"ConnectivityInfo": list(entries)})

    def _connectivity_url(self) -> str:
        return f"{self._base}/things/{quote(self._thing, safe='')}/connectivityInfo"

    async def _ask(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        identified: bool = True,
    ) -> dict[str, Any]:
        """One attempt: a client device does not wait for a second one.

        Raises:
            RequestRejectedError: The answer is no.
            UnreachableError: There is none, or it is not about the question.
        """
        import httpx  # as in `CloudHttp`: a device starts without it

        try:
            client = self._http.client(identified=identified)
            response = await client.request(method, url, json=body, headers=headers, timeout=_TIMEOUT_S)
            answer = response.json()
        except (httpx.HTTPError, OSError) as exc:
            raise UnreachableError(f"{type(exc).__name__}: {exc}") from exc
        except ValueError as exc:
            raise UnreachableError(f"{url} did not answer with JSON: HTTP {response.status_code}") from exc
        if response.is_success and isinstance(answer, dict):
            return answer
        text = f"HTTP {response.status_code}: {response.text[:300]}"
        if response.status_code in (400, 404):
            raise RequestRejectedError(text, str(response.status_code))
        if response.status_code == 403:
            log.error("this core device may not ask about its client devices: %s", text)
        raise UnreachableError(text)


class Identities:
    """Verified client devices.

    Args:
        cloud: Asked first, each time.
        path: Where its answers are kept.
        documents: Where that is.
    """

    def __init__(self, cloud: DeviceCloud, path: Path, documents: Documents) -> None:
        self._cloud, self._path, self._documents = cloud, path, documents
        stored = documents.read(path)
        self._kept: dict[str, list[Any]] = stored if isinstance(stored, dict) else {}
        self._asking = asyncio.Semaphore(1)  # `maxConcurrentCloudRequests` by default
        self._waiting = 0

    async def refusal(self, certificate: bytes, thing: str, trusted_s: float) -> str:
        """Why a client is not the device that it says it is; empty if it is.

        Args:
            certificate: What it has shown (DER).
            thing: What it says.
            trusted_s: How long the cloud's last word counts while it gives none.
        """
        if not certificate:
            return f"{thing} has shown no certificate"
        certificate_id = hashlib.sha256(certificate).hexdigest()
        if self._waiting >= QUEUE:
            return f"{thing} must come later: {QUEUE} client devices wait for the cloud already"
        self._waiting += 1
        try:
            async with self._asking:
                refusal = await self._cloud.verify(ssl.DER_cert_to_PEM_cert(certificate), certificate_id, thing)
        except UnreachableError as exc:
            return self._remembered(thing, certificate_id, trusted_s, str(exc))
        finally:
            self._waiting -= 1
        if refusal:
            # Whoever else says that it is this thing takes nothing from it.
            if self._kept.get(thing, [None])[0] == certificate_id:
                self.forget(thing)
            return f"{thing} is no client device of this core by this certificate: {refusal}"
        self._kept.pop(thing, None)
        self._kept[thing] = [certificate_id, CLOCK.time()]
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        self._documents.write(self._path, self._kept)
        return ""

    def _remembered(self, thing: str, certificate_id: str, trusted_s: float, reason: str) -> str:
        known, verified_s = self._kept.get(thing) or ("", 0.0)
        if known == certificate_id and CLOCK.time() - verified_s <= trusted_s:
            log.info("client device %s is let in by what the cloud said before: %s", thing, reason)
            return ""
        rule = f"was not verified within {trusted_s / 60:g} min (security.clientDeviceTrustDurationMinutes)"
        return f"the cloud cannot be asked about {thing}, which {rule}: {reason}"

    def forget(self, thing: str) -> None:
        """Trust what the cloud said of a thing no more."""
        if self._kept.pop(thing, None) is not None:
            self._documents.write(self._path, self._kept)

    async def gone(self, connected: Collection[str]) -> set[str]:
        """Which of the connected things are no client devices of this core any more, and no longer trusted.

        Raises:
            UnreachableError: The cloud cannot say.
        """
        known = {*connected, *self._kept}  # who comes while the cloud lists may be on a page that was read before
        try:
            lost = known - await self._cloud.associated()
        except RequestRejectedError as exc:
            raise UnreachableError(str(exc)) from exc
        for thing in lost:
            self.forget(thing)
        return lost & set(connected)


FORMAT = "2021-03-05"
OPERATIONS = ("mqtt:connect", "mqtt:publish", "mqtt:subscribe")
THING_NAME = "${iot:Connection.Thing.ThingName}"

_RESOURCE = re.compile(r"\*|mqtt:(clientId|topic|topicfilter):.+", re.S)
_CLAUSE = re.compile(r"\s*thingName:\s*((?:\\.|[^\s\\])+)(?:\s+(AND|OR)(?=\s)|\s*$)")
_NAME = re.compile(r"\*?(?:\\:|[A-Za-z0-9_-])*\*?")


class PermissionsError(Exception):
    """`deviceGroups` has mistakes; the text lists all of them."""


@dataclass(frozen=True)
class _Statement:
    operations: frozenset[str]
    resources: tuple[str, ...]


@dataclass(frozen=True)
class _Group:
    name: str
    rule: tuple[tuple[str, ...], ...]
    """Any of these, of each all: patterns of thing names."""
    statements: tuple[_Statement, ...]


@dataclass(frozen=True)
class Permissions:
    """What client devices may do; without any group, nothing."""

    groups: tuple[_Group, ...] = ()

    def groups_of(self, thing: str) -> list[str]:
        """Names of the groups that a thing is in."""
        return [group.name for group in self.groups if _selects(group.rule, thing)]

    def allows(self, thing: str, operation: str, resource: str) -> bool:
        """Whether a group of a thing allows an operation on a resource.

        Args:
            thing: The client device's.
            operation: One of `OPERATIONS`.
            resource: `mqtt:clientId:…`, `mqtt:topic:…` or `mqtt:topicfilter:…`; a filter's wildcards are plain text.
        """
        return any(
            operation in statement.operations and any(_covers(text, thing, resource) for text in statement.resources)
            for group in self.groups
            if _selects(group.rule, thing)
            for statement in group.statements
        )


def parse_permissions(device_groups: Any) -> Permissions:
    """Read `deviceGroups`.

    Args:
        device_groups: The value of the component's configuration; nothing for none.

    Raises:
        PermissionsError: It has mistakes: each with its place, the rule and what is there.
    """
    reader = _Reader()
    content = reader.table("deviceGroups", device_groups)
    if content and (version := content.get("formatVersion")) != FORMAT:
        reader.note("deviceGroups.formatVersion", f"must be {FORMAT}", version)
    policies = {
        name: tuple(reader.statements(f"deviceGroups.policies.{name}", policy))
        for name, policy in reader.table("deviceGroups.policies", content.get("policies")).items()
    }
    groups = []
    for name, entry in reader.table("deviceGroups.definitions", content.get("definitions")).items():
        where = f"deviceGroups.definitions.{name}"
        definition = reader.table(where, entry)
        policy = definition.get("policyName")
        if policy not in policies:
            known = ", ".join(policies) or "none"
            reader.note(f"{where}.policyName", f"must be one of deviceGroups.policies ({known})", policy)
            continue
        rule = reader.rule(f"{where}.selectionRule", definition.get("selectionRule"))
        groups.append(_Group(str(name), rule, policies[policy]))
    if reader.mistakes:
        raise PermissionsError("\n".join(reader.mistakes))
    return Permissions(tuple(groups))


@dataclass
class _Reader:
    mistakes: list[str] = field(default_factory=list)

    def note(self, where: str, rule: str, value: Any) -> None:
        self.mistakes.append(f"{where} {rule}, got {'nothing' if value is None else repr(value)[:200]}")

    def table(self, where: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self.note(where, "must be an object", value)
        return {}

    def statements(self, where: str, policy: Any) -> Iterator[_Statement]:
        for name, entry in self.table(where, policy).items():
            statement = self.table(f"{where}.{name}", entry)
            operations = self.texts(f"{where}.{name}.operations", statement.get("operations"))
            resources = self.texts(f"{where}.{name}.resources", statement.get("resources"))
            found: set[str] = set()
            for operation in operations:
                if operation in ("*", "mqtt:*"):
                    found.update(OPERATIONS)
                elif operation in OPERATIONS:
                    found.add(operation)
                else:
                    self.note(f"{where}.{name}.operations", f"must be of {', '.join((*OPERATIONS, '*'))}", operation)
            for resource in resources:
                if not _RESOURCE.fullmatch(resource):
                    rule = "must be *, mqtt:clientId:…, mqtt:topic:… or mqtt:topicfilter:…"
                    self.note(f"{where}.{name}.resources", rule, resource)
            yield _Statement(frozenset(found), tuple(resources))

    def texts(self, where: str, value: Any) -> list[str]:
        # One text stands for a list of it, as the component's examples have it.
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and values and all(isinstance(each, str) for each in values):
            return values
        self.note(where, "must be a list of texts", value)
        return []

    def rule(self, where: str, value: Any) -> tuple[tuple[str, ...], ...]:
        """`thingName: a* OR thingName: b AND thingName: c`; AND binds closer, as in fleet indexing's queries."""
        shape = "must be thingName: NAME, joined by OR and AND, with * at a name's beginning or end"
        if not isinstance(value, str):
            self.note(where, shape, value)
            return ()
        any_of: list[list[str]] = [[]]
        at = 0
        while True:
            clause = _CLAUSE.match(value, at)
            if clause is None or not _NAME.fullmatch(clause[1]):
                self.note(where, shape, value)
                return ()
            any_of[-1].append(clause[1].replace("\\:", ":"))
            at = clause.end()
            if clause[2] is None:
                return tuple(map(tuple, any_of))
            if clause[2] == "OR":
                any_of.append([])


def _selects(rule: tuple[tuple[str, ...], ...], thing: str) -> bool:
    return any(all(_pattern(name).fullmatch(thing) for name in all_of) for all_of in rule)


def _covers(text: str, thing: str, resource: str) -> bool:
    return text == "*" or _pattern(text.replace(THING_NAME, thing)).fullmatch(resource) is not None


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    first, *rest = map(re.escape, text.split("*"))
    # Atomic: what is between two wildcards is looked for once, so that no topic of a client takes long to refuse.
    between = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(first + between + "".join(f".*{part}" for part in rest[-1:]), re.S)
