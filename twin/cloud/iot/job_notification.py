"""The notifications of job queues with a namespace: late, and several changes in one.

Nucleus lite 2.6.0 deadlocks its MQTT daemon when a message for another subscription comes right behind the reply to
its update, while it is closing the reply's subscription. AWS notifies asynchronously as well, so a notification here
waits until the thing has had no reply for half a second, and then says how the queue stands.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.iot.job_namespace import job_namespace, job_namespaces

logger = logging.getLogger("twin.iot")

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


class JobNotifier:
    """Publishes `notify` and `notify-next` of every queue whose pending jobs changed.

    Args:
        quiet_s: Shortest time between the last reply to a thing and its notification.
        latest_s: Longest time that replies can put a notification off.
    """

    def __init__(self, quiet_s: float = QUIET_S, latest_s: float = LATEST_S) -> None:
        self._quiet_s, self._latest_s = quiet_s, latest_s
        self._published: dict[Queue, QueueState] = {}
        self._replied: dict[tuple[str, str, str], float] = {}
        self._under_way: dict[Queue, asyncio.Task[None]] = {}
        self._notify_default = iot.jobs_notify_thing

    def replied(self, account: str, region: str, thing: str) -> None:
        """Note that a reply to the thing has just been sent."""
        self._replied[account, region, thing] = time.monotonic()

    async def queue_changed(self, account: str, region: str, thing: str, previous_front: str | None) -> None:
        """Schedule the notifications of the thing's queues that are not as last published.

        Takes the place of MiniStack's `jobs_notify_thing`, which does not say which queue it is about.
        """
        with request_scope(account, region):
            named = job_namespaces()
        named |= {q.namespace for q in self._published if q[:3] == (account, region, thing) and q.namespace is not None}
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
            await self._notify_default(account, region, thing, previous_front if known is None else known.front)

    def _differs(self, queue: Queue) -> bool:
        state, _pending, _view = self._read(queue)
        return state.pending != self._published.get(queue, EMPTY).pending

    async def _notify_late(self, queue: Queue) -> None:
        try:
            latest = time.monotonic() + self._latest_s
            await asyncio.sleep(_GATHER_S)
            while (wait_s := self._quiet_until(queue) - time.monotonic()) > 0 and time.monotonic() < latest:
                await asyncio.sleep(min(wait_s, self._latest_s))
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
        if state.pending == before.pending:
            return
        head = {"timestamp": int(time.time())}
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
