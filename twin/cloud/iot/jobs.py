"""Job queues with a namespace, apart from the queue without one: their topics and their notifications.

MiniStack stores `namespaceId` but has one queue a thing. AWS keeps the queues apart (`$aws/things/<thing>/jobs/…` for
jobs without a namespace, `…/<job>/namespace-<namespace>/{get,update}` for those with one).

Notifications are late, and several changes in one. Nucleus lite 2.6.0 deadlocks its MQTT daemon when a message for
another subscription comes right behind the reply to its update, while it is closing the reply's subscription. AWS
notifies asynchronously as well, so a notification here waits until the thing has had no reply for half a second, and
then says how the queue stands.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_background
from twin.cloud_process import Settings

logger = logging.getLogger("twin.iot")

Execution = dict[str, Any]

_namespace: ContextVar[str | None] = ContextVar("twin_iot_job_namespace", default=None)


@contextmanager
def job_namespace(name: str | None) -> Iterator[None]:
    """Let MiniStack's queue functions see the queues of one namespace; None is the one without a name."""
    token = _namespace.set(name)
    try:
        yield
    finally:
        _namespace.reset(token)


def namespace_of(job_id: str) -> str | None:
    """The namespace of a job of the request's account and region; None also for a job that does not exist."""
    namespace: str | None = (iot._jobs.get(job_id) or {}).get("namespaceId")
    return namespace


def job_namespaces() -> set[str]:
    """Every namespace that has a job in the request's account and region."""
    return {job["namespaceId"] for job in iot._jobs.values() if job.get("namespaceId")}


@patch(
    "services.iot.jobs_pending_for_thing",
    why="a thing has a queue for each namespace, found by its jobs: MiniStack looks through the executions of all "
    "things; its other queue functions build on this one",
    signature="(thing_name)",
)
def _jobs_pending_for_thing(_pending_in_all: Callable[[str], list[Execution]], thing_name: str) -> list[Execution]:
    namespace = _namespace.get()
    pending = []
    for job_id, job in list(iot._jobs.items()):
        if job.get("namespaceId") != namespace:
            continue
        execution = iot._job_executions.get((thing_name, job_id))
        if execution is None and job["status"] == "IN_PROGRESS" and _is_wanted(job, thing_name):
            iot._jobs_materialize_executions(job_id)
            execution = iot._job_executions.get((thing_name, job_id))
        if execution is not None:
            iot._jobs_apply_timeout(execution)
            if execution["status"] in ("QUEUED", "IN_PROGRESS"):
                pending.append(dict(execution))
    return sorted(pending, key=lambda execution: int(execution["queuedAt"]))


_looked_through: dict[tuple[str, str, str], tuple[Any, ...]] = {}


@patch(
    "services.iot._jobs_materialize_executions",
    why="the members of a job's groups are looked through only where some came or went, not at each update of a device",
    signature="(job_id)",
)
def _materialize(materialize: Callable[[str], None], job_id: str) -> None:
    job = iot._jobs.get(job_id)
    key = (get_account_id(), get_region(), job_id)
    if job is None:
        _looked_through.pop(key, None)
        return
    state: tuple[Any, ...] = (id(job), job.get("status"))
    state += (*_ends(job.get("rolloutQueue")), *_ends(job.get("executionsDeletedFor")))
    for arn in job.get("targets") or ():
        group = iot._thing_groups.get(arn.partition(":thinggroup/")[2]) or {}
        state += (len(iot._things._data), *_ends(group.get("things")))
    if _looked_through.get(key) != state:
        materialize(job_id)
        _looked_through[key] = state


def _ends(things: Any) -> tuple[int, Any, Any]:
    """Enough to see that a list has changed: one grows at its end, and what left and came back is there."""
    return (len(things), things[0], things[-1]) if things else (0, None, None)


def _is_wanted(job: Execution, thing_name: str) -> bool:
    """Whether a thing has come into a job's group otherwise than by AddThingToThingGroup, which queues it at once."""
    if thing_name in (job.get("rolloutQueue") or ()) or thing_name in (job.get("executionsDeletedFor") or ()):
        return False
    return any(thing_name in (iot._job_target_resolve(arn) or ()) for arn in job.get("targets") or ())


QUIET_S = 0.5
"""How long a thing has had no reply before it is notified (observed with nucleus lite 2.6.0)."""

LATEST_S = 10.0
"""A thing that keeps asking is notified after this all the same."""

_GATHER_S = 0.02


class Queue(NamedTuple):
    """A thing's job queue of a namespace; None is the queue without one."""

    account: str
    region: str
    thing: str
    namespace: str | None


class QueueState(NamedTuple):
    """What subscribers know of a queue: its front, and everything that is pending."""

    front: str | None
    pending: frozenset[tuple[str, int]]


EMPTY = QueueState(None, frozenset())


Notify = Callable[[str, str, str, str | None], Awaitable[None]]


class JobNotifier:
    """Publishes `notify` and `notify-next` of every queue whose pending jobs changed.

    Args:
        quiet_s: Shortest time between the last reply to a thing and its notification.
        latest_s: Longest time that replies can put a notification off.
    """

    def __init__(self, quiet_s: float = QUIET_S, latest_s: float = LATEST_S) -> None:
        self._quiet_s, self._latest_s = quiet_s, latest_s
        self._published: dict[Queue, QueueState] = {}
        self._names: dict[tuple[str, str, str], set[str]] = {}
        self._replied: dict[tuple[str, str, str], float] = {}
        self._under_way: dict[Queue, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    def replied(self, account: str, region: str, thing: str) -> None:
        """Note that a reply to the thing has just been sent."""
        self._replied[account, region, thing] = time.monotonic()

    async def queue_changed(
        self, notify_default: Notify, account: str, region: str, thing: str, previous_front: str | None
    ) -> None:
        """Schedule the notifications of the thing's queues that are not as last published.

        Args:
            notify_default: MiniStack's own, which does not say which queue it is about.
            account: Of the thing.
            region: Of the thing.
            thing: Its name.
            previous_front: The job that was at the front.
        """
        with request_scope(account, region):
            named = job_namespaces()
        named |= self._names.get((account, region, thing), set())
        changed = [queue for name in named if self._differs(queue := Queue(account, region, thing, name))]
        for queue in changed:
            if queue not in self._under_way:
                self._under_way[queue] = asyncio.get_running_loop().create_task(self._notify_late(queue))
        default = Queue(account, region, thing, None)
        known = self._published.get(default)
        state, _pending, _view = self._read(default)
        self._published[default] = state
        # Of a queue never published before only this is known: the change was its own unless it was another's.
        if (not changed) if known is None else state.pending != known.pending:
            await notify_default(account, region, thing, previous_front if known is None else known.front)
        # A job for a thousand things comes here a thousand times in a row.
        await asyncio.sleep(0)

    def _differs(self, queue: Queue) -> bool:
        state, _pending, _view = self._read(queue)
        return state.pending != self._published.get(queue, EMPTY).pending

    async def _notify_late(self, queue: Queue) -> None:
        try:
            latest = time.monotonic() + self._latest_s
            wait_s = _GATHER_S
            while wait_s > 0:
                await asyncio.sleep(min(wait_s, self._latest_s))
                # One begins at a time, and what else is ready comes in between: a thousand in a row would hold all up.
                # The turn ends before the message goes: a thing that takes nothing must not keep it from the others.
                async with self._turn:
                    await asyncio.sleep(0)
                now = time.monotonic()
                wait_s = self._quiet_until(queue) - now if now < latest else 0.0
            await self._notify(queue)
        except Exception:
            logger.exception("notification of %s in namespace %s failed", queue.thing, queue.namespace)
        finally:
            self._under_way.pop(queue, None)
        # What changed while the messages went out has not been scheduled by anybody.
        if self._differs(queue):
            self._under_way[queue] = asyncio.get_running_loop().create_task(self._notify_late(queue))

    def _quiet_until(self, queue: Queue) -> float:
        return self._replied.get(queue[:3], 0.0) + self._quiet_s

    async def _notify(self, queue: Queue) -> None:
        state, pending, view = self._read(queue)
        before = self._published.get(queue, EMPTY)
        self._published[queue] = state
        if queue.namespace is not None:
            self._names.setdefault(queue[:3], set()).add(queue.namespace)
        if state.pending == before.pending:
            return
        head = {"timestamp": int(CLOCK.time())}
        by_status: dict[str, list[Any]] = {}
        for execution in pending:
            by_status.setdefault(execution["status"], []).append(iot.jobs_execution_summary(execution))
        await self._publish(queue, "notify", {**head, "jobs": by_status})
        if state.front != before.front:
            await self._publish(queue, "notify-next", {**head, **({"execution": view} if view else {})})

    async def _publish(self, queue: Queue, kind: str, document: dict[str, Any]) -> None:
        topic = f"$aws/things/{queue.thing}/jobs/{kind}-namespace-{queue.namespace}"
        payload = iot._jobs_mqtt_json(document).encode()
        await iot.broker_publish(queue.account, queue.region, topic, payload, qos=1)

    def _read(self, queue: Queue) -> tuple[QueueState, list[dict[str, Any]], dict[str, Any] | None]:
        """The queue's state, its pending executions, and its front as a message carries it."""
        with job_namespace(queue.namespace), request_scope(queue.account, queue.region):
            pending = iot.jobs_pending_for_thing(queue.thing)
            front = iot.jobs_start_next_execution(queue.thing, peek=True)
            view = None
            if front is not None:
                view = iot._jobs_mqtt_execution(front, iot._jobs_job_document_object(front["jobId"]))
        entries = frozenset((entry["jobId"], entry["executionNumber"]) for entry in pending)
        return QueueState(front["jobId"] if front else None, entries), pending, view

    async def stop(self) -> None:
        """Drop the notifications under way."""
        for task in list(self._under_way.values()):
            task.cancel()
        self._under_way.clear()


_REQUEST = re.compile(r"\$aws/things/([^/]+)/jobs/([^/]+)/namespace-([^/]+)/(get|update)")
_REPLY = re.compile(
    r"\$aws/things/[^/]+/jobs/([^/]+/namespace-[^/]+/(get|update)/(accepted|rejected)|notify(-next)?-namespace-[^/]+)"
)
_NEXT = "$next"

Document = dict[str, Any]


class Rejected(Exception):  # noqa: N818 - the protocol's own word
    """A request that is answered on its `rejected` topic.

    Args:
        document: The answer.
    """

    def __init__(self, document: Document) -> None:
        super().__init__(document.get("message"))
        self.document = document


_notifier = JobNotifier()


@patch("services.iot._jobs_now_ms", why="jobs have the twin's time", signature="()")
def _jobs_now_ms(_by_ministack: Callable[[], int]) -> int:
    return int(CLOCK.time() * 1000)


@patch(
    "services.iot._jobs_rollout",
    why="batches come by the twin's time; an hour's rollout takes a minute at speed 60",
    signature="async (account_id, region, job)",
)
async def _roll_out(
    _by_ministack: Callable[..., Awaitable[None]], account_id: str, region: str, job: dict[str, Any]
) -> None:
    while True:
        with request_scope(account_id, region):
            is_current = iot._jobs.get(job["jobId"]) is job and job["status"] == "IN_PROGRESS"
        if not is_current or not job.get("rolloutQueue"):
            return
        next_batch_s = (job["rolloutBatchAt"] + iot._JOB_ROLLOUT_INTERVAL_MS) / 1000
        if (wait_s := next_batch_s - CLOCK.time()) > 0:
            await CLOCK.sleep(wait_s)
            continue
        async with iot.publishing_events():
            with request_scope(account_id, region):
                released = iot._jobs_rollout_release(job)
            for thing, previous_front in released:
                await iot.jobs_notify_thing(account_id, region, thing, previous_front)


@patch("services.iot._parse_jobs_topic", why="topics of jobs with a namespace are served", signature="(topic)")
def _parse_jobs_topic(parse: Callable[[str], Any], topic: str) -> Any:
    if match := _REQUEST.fullmatch(topic):
        return match[1], f"namespace-{match[3]}/{match[4]}", match[2]
    return parse(topic)


@patch(
    "services.iot._handle_jobs_publish",
    why="topics of jobs with a namespace are served",
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
    if verb.startswith("namespace-") and job_id is not None:
        namespace, _, verb = verb.removeprefix("namespace-").rpartition("/")
        with request_scope(account_id, region), job_namespace(namespace):
            await _serve(account_id, region, thing, job_id, namespace, verb, payload)
    else:
        await handle(account_id, region, thing, verb, job_id, payload)


@patch(
    "services.iot._reserved_topic_publish_allowed",
    why="clients may not publish on the answers' topics",
    signature="(topic)",
)
def _reserved_topic_publish_allowed(allowed: Callable[[str], bool], topic: str) -> bool:
    return _REPLY.fullmatch(topic) is None and bool(allowed(topic))


@patch(
    "services.iot.jobs_notify_thing",
    why="notifications of queues with a namespace, late and in one",
    signature="async (account_id, region, thing_name, prev_next_job_id)",
)
async def _jobs_notify_thing(
    notify: Notify, account_id: str, region: str, thing_name: str, prev_next_job_id: str | None
) -> None:
    await _notifier.queue_changed(notify, account_id, region, thing_name, prev_next_job_id)


async def _nothing() -> None:
    """The notifier starts with its first notification."""


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """End the notifications with the cloud."""
    register_background("job notifications", start=_nothing, stop=_notifier.stop)


async def _serve(
    account: str,
    region: str,
    thing: str,
    job_id: str,
    namespace: str,
    verb: str,
    payload: bytes,
) -> None:
    try:
        request = _request(payload)
        token = request.get("clientToken")
        if job_id != _NEXT and namespace_of(job_id) != namespace:
            raise Rejected(iot._jobs_rejected("ResourceNotFound", f"Job {job_id} not found for {thing}", token))
        answer, kind = (_get if verb == "get" else _update)(thing, job_id, request, token), "accepted"
    except Rejected as rejected:
        answer, kind = rejected.document, "rejected"
    topic = f"$aws/things/{thing}/jobs/{job_id}/namespace-{namespace}/{verb}/{kind}"
    _notifier.replied(account, region, thing)
    await iot.broker_publish(account, region, topic, iot._jobs_mqtt_json(answer).encode(), qos=1)
    if verb == "update" and kind == "accepted" and request.get("status") in iot._JOB_EXECUTION_TERMINAL:
        with job_namespace(None):
            await iot.jobs_notify_thing(account, region, thing, iot.jobs_first_pending_job_id(thing))
            await iot.jobs_abort_if_met(account, region, job_id)


def _request(payload: bytes) -> Document:
    try:
        request = json.loads(payload) if payload else {}
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Rejected(iot._jobs_rejected("InvalidJson", "The request payload must be a JSON object in UTF-8"))
    return request


def _get(thing: str, job_id: str, request: Document, token: Any) -> Document:
    """DescribeJobExecution: the front of the queue for `$next`, and no execution where the queue is empty."""
    if job_id == _NEXT:
        execution = iot.jobs_start_next_execution(thing, peek=True)
    else:
        execution = iot.jobs_describe_execution(thing, job_id)
        number = request.get("executionNumber")
        if execution is None or number not in (None, execution["executionNumber"]):
            raise Rejected(iot._jobs_rejected("ResourceNotFound", f"Job {job_id} not found for {thing}", token))
    answer: Document = iot._jobs_mqtt_head(token, int(CLOCK.time()))
    if execution is None:
        return answer
    if error := iot.jobs_reject_terminal_describe(execution):
        raise Rejected(iot._jobs_error_tuple_to_rejected(error, token))
    wanted = request.get("includeJobDocument", True)
    document = iot._jobs_job_document_object(execution["jobId"]) if wanted else None
    return {**answer, "execution": iot._jobs_mqtt_execution(execution, document)}


def _update(thing: str, job_id: str, request: Document, token: Any) -> Document:
    """UpdateJobExecution."""
    status = request.get("status")
    execution, error = iot.jobs_update_execution(
        thing,
        job_id,
        status=status if isinstance(status, str) else None,
        expected_version=request.get("expectedVersion"),
        status_details=request.get("statusDetails"),
        step_timeout_minutes=request.get("stepTimeoutInMinutes"),
        execution_number=request.get("executionNumber"),
    )
    if error:
        current = iot.jobs_describe_execution(thing, job_id)
        raise Rejected(iot._jobs_error_tuple_to_rejected(error, token, current))
    answer: Document = iot._jobs_mqtt_head(token, int(CLOCK.time()))
    if request.get("includeJobExecutionState"):
        answer["executionState"] = iot.jobs_execution_state(execution)
    if request.get("includeJobDocument"):
        answer["jobDocument"] = iot._jobs_job_document_object(job_id, escape_non_bmp=True)
    return answer
