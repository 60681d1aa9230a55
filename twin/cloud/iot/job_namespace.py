"""Jobs of a namespace: a queue of their own for each thing, apart from the jobs without one.

MiniStack stores `namespaceId` but has one queue a thing. AWS keeps the queues apart (`$aws/things/<thing>/jobs/…` for
jobs without a namespace, `…/namespace-<namespace>/…` for those with one).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ministack.services import iot

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


def install() -> None:
    """Make MiniStack's pending queue that of the namespace at hand; its other queue functions build on it."""
    pending_in_all = iot.jobs_pending_for_thing

    def jobs_pending_for_thing(thing_name: str) -> list[Execution]:
        namespace = _namespace.get()
        return [entry for entry in pending_in_all(thing_name) if namespace_of(entry["jobId"]) == namespace]

    iot.jobs_pending_for_thing = jobs_pending_for_thing
