"""`up --aws-rates`: the twin throttles as an account with default quotas does, by the twin's time.

A quota of N calls a second is a bucket of N calls that fills at that rate. Calls of devices over MQTT count, too. The
numbers are defaults; an account's own are told by `aws service-quotas list-service-quotas --service-code iotcore`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ministack.core.iam_actions import extract_iam_action
from ministack.core.responses import get_account_id, get_region
from ministack.core.router import detect_service
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch
from twin.cloud_process import RATES_VARIABLE, Settings

logger = logging.getLogger("twin.rates")

READ = "2026-11-29"
"""When the sources were read."""

QUOTAS = "Service Quotas, AWS IoT Core"
GUIDE = "AWS IoT Developer Guide, AWS IoT Throttling Limits"
BROKER = "AWS IoT Developer Guide, Message Broker Limits"
JOBS = "AWS IoT Developer Guide, AWS IoT Job Limits"


@dataclass(frozen=True)
class Rate:
    """Calls a second of an account in a region, and where that is said."""

    per_second: float
    source: str


def _quota(per_second: float, code: str) -> Rate:
    return Rate(per_second, f"{QUOTAS}, {code}")


RATES: dict[str, Rate] = {
    "iot:CreateThing": _quota(100, "L-64CBACAC"),
    "iot:DeleteThing": _quota(100, "L-889800F7"),
    "iot:DescribeThing": _quota(350, "L-0EF0F5EE"),
    "iot:UpdateThing": _quota(100, "L-211F680E"),
    "iot:ListThings": _quota(10, "L-57AAC135"),
    "iot:AttachThingPrincipal": _quota(100, "L-F64D1AA6"),
    "iot:DetachThingPrincipal": _quota(100, "L-B5EE4A16"),
    "iot:ListThingPrincipals": _quota(10, "L-FC3EF4D9"),
    "iot:ListPrincipalThings": _quota(10, "L-C481616A"),
    "iot:AddThingToThingGroup": _quota(100, "L-2904683A"),
    "iot:RemoveThingFromThingGroup": _quota(100, "L-2A81A394"),
    "iot:CreateThingGroup": _quota(25, "L-512F449C"),
    "iot:DeleteThingGroup": _quota(15, "L-FCAB1AF4"),
    "iot:DescribeThingGroup": _quota(100, "L-52E1E197"),
    "iot:UpdateThingGroup": _quota(15, "L-5D84F9FE"),
    "iot:ListThingGroups": _quota(10, "L-1E5260D6"),
    "iot:ListThingGroupsForThing": _quota(100, "L-75F129AD"),
    "iot:ListThingsInThingGroup": _quota(25, "L-D33FD5F9"),
    "iot:CreateThingType": _quota(15, "L-8650816F"),
    "iot:DeprecateThingType": _quota(15, "L-7F1DBFAE"),
    "iot:DeleteThingType": _quota(15, "L-CFBDB489"),
    "iot:TagResource": _quota(10, "L-06E76376"),
    "iot:ListTagsForResource": _quota(10, "L-D127B7BE"),
    **{
        f"iot:{name}": Rate(per_second, GUIDE)
        for per_second, names in {
            10: "CancelJob CancelJobExecution CreateJob CreatePolicy CreatePolicyVersion CreateRoleAlias DeleteJob "
            "DeleteJobExecution DeletePolicy DeletePolicyVersion DeleteRoleAlias DescribeCertificate DescribeJob "
            "DescribeRoleAlias GetJobDocument GetPolicy ListCertificates ListJobExecutionsForJob "
            "ListJobExecutionsForThing ListJobs ListPolicies ListPolicyVersions ListRoleAliases ListTargetsForPolicy "
            "RegisterThing SetDefaultPolicyVersion UpdateCertificate UpdateJob UpdateRoleAlias",
            15: "AttachPolicy CreateCertificateFromCsr DetachPolicy GetPolicyVersion ListAttachedPolicies",
        }.items()
        for name in names.split()
    },
    "connect": Rate(500, BROKER),
    "jobs read": Rate(200, JOBS),
    "jobs written": Rate(200, JOBS),
}
"""By IAM action; three for devices over MQTT."""


@dataclass
class Bucket:
    """Calls that may still be made.

    Args:
        per_second: How many come to it in a second of the twin; as many as it holds.
        now: Seconds of the twin.
    """

    per_second: float
    now: float
    _left: float = field(init=False)

    def __post_init__(self) -> None:
        self._left = max(1.0, self.per_second)

    def take(self, now: float) -> bool:
        """Take a call; False where none is left."""
        self._left = min(max(1.0, self.per_second), self._left + (now - self.now) * self.per_second)
        self.now = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Throttle:
    """The buckets of all accounts and regions.

    Args:
        clock: Seconds of the twin, ever rising.
    """

    def __init__(self, clock: Callable[[], float] = CLOCK.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str, str], Bucket] = {}
        self.refused: dict[str, int] = {}

    def allows(self, what: str, account: str, region: str) -> bool:
        """Whether a call may be made now; one without a quota always may."""
        rate = RATES.get(what)
        if rate is None:
            return True
        now, key = self._clock(), (account, region, what)
        bucket = self._buckets.setdefault(key, Bucket(rate.per_second, now))
        if bucket.take(now):
            return True
        number = self.refused[what] = self.refused.get(what, 0) + 1
        # A flood must not fill the log: the 1st, 2nd, 4th, 8th … refusal is told.
        if number & (number - 1) == 0:
            logger.warning("%s: more than %g a second (%s), %d refused", what, rate.per_second, rate.source, number)
        return False


_throttle: list[Throttle] = []
_REFUSAL = json.dumps({"message": "Rate exceeded"}).encode()


async def throttled(scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> bool:
    """Refuse a request of the gateway that comes too fast, as AWS does.

    Returns:
        Whether it has been answered.
    """
    if not _throttle:
        return False
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    service = detect_service(scope["method"], scope["path"], headers, {})
    if service != "iot":
        return False
    action = extract_iam_action(service, scope["method"], scope["path"], headers, b"", {})
    if action is None or _throttle[0].allows(action, get_account_id(), get_region()):
        return False
    lines = [
        (b"content-type", b"application/json"),
        (b"x-amzn-errortype", b"ThrottlingException"),
        (b"content-length", str(len(_REFUSAL)).encode()),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": lines})
    await send({"type": "http.response.body", "body": _REFUSAL})
    return True


@patch(
    "services.iot._mtls_serve_conn",
    why="connects of an account are as many a second as AWS takes",
    signature="async (reader, writer)",
)
async def _serve_connection(serve: Callable[..., Awaitable[None]], reader: Any, writer: Any) -> None:
    if _throttle and not _throttle[0].allows("connect", "", ""):
        writer.transport.abort()
        return
    await serve(reader, writer)


@patch(
    "services.iot._handle_jobs_publish",
    why="devices' calls of jobs are as many a second as AWS takes",
    signature="async (account_id, region, thing, verb, job_id, payload)",
)
async def _handle_jobs_publish(
    handle: Callable[..., Awaitable[None]],
    account_id: str,
    region: str,
    thing: str,
    verb: str,
    job_id: str | None,
    payload: bytes,
) -> None:
    what = "jobs read" if verb.endswith("get") else "jobs written"
    if not _throttle or _throttle[0].allows(what, account_id, region):
        await handle(account_id, region, thing, verb, job_id, payload)
        return
    try:
        token = json.loads(payload).get("clientToken")
    except (ValueError, AttributeError, RecursionError):
        token = None
    answer = iot._jobs_rejected("RequestThrottled", "Rate exceeded", token)
    named, _, name = verb.rpartition("/")
    middle = f"{job_id}/{named}/{name}" if named else f"{job_id}/{verb}" if job_id else verb
    topic = f"$aws/things/{thing}/jobs/{middle}/rejected"
    await iot.broker_publish(account_id, region, topic, iot._jobs_mqtt_json(answer).encode(), qos=1)


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Throttle where the twin was started so."""
    if os.environ.get(RATES_VARIABLE) == "1":
        _throttle[:] = [Throttle()]
