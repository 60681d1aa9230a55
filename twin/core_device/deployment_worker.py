"""Deployment jobs, taken one after the other and reported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .deployment import Deployer, Outcome
from .deployment_document import DeploymentDocument, parse_document
from .dialect import LITE, Dialect, check_document
from .errors import DeploymentError
from .files import read_json, write_json
from .jobs import Job, JobQueue

log = logging.getLogger(__name__)

_DETAIL_LIMIT_CHARS = 1024  # IoT Jobs' quota for a value in the status details


class DeploymentWorker:
    """Runs deployments and remembers how the last one ended, so that a restart neither loses nor repeats it.

    Args:
        path: The file that remembers.
        deployer: Carries them out.
        on_done: Called with the document and the outcome of each.
        dialect: Which documents work.
    """

    def __init__(
        self,
        path: Path,
        deployer: Deployer,
        on_done: Callable[[DeploymentDocument, Outcome], None],
        dialect: Dialect = LITE,
    ) -> None:
        self._path, self._deployer, self._on_done, self._dialect = path, deployer, on_done, dialect
        self._last: dict[str, Any] = read_json(path) or {}
        self._active: tuple[str, int] | None = None
        self._next: Job | None = None
        self._offered = asyncio.Event()

    def offer(self, job: Job) -> None:
        """Take note of the job at the head of the device's queue; only the latest one counts."""
        if job.job_id == self._last.get("jobId") and job.queued_at < self._last.get("queuedAt", 0):
            return
        if (job.job_id, job.queued_at) != self._active:
            self._next = job
            self._offered.set()

    async def run(self, queue: JobQueue) -> None:
        """Work until cancelled."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            job, self._next = self._next, None
            if job is None:
                continue
            self._active = (job.job_id, job.queued_at)
            try:
                await self._process(job, queue)
            except Exception:
                log.exception("job %s: internal error", job.job_id)
                await queue.report(job.job_id, "FAILED", {"deployment-failure-cause": "internal error of the device"})
            self._active = None

    async def _process(self, job: Job, queue: JobQueue) -> None:
        known = (self._last.get("jobId"), self._last.get("queuedAt")) == (job.job_id, job.queued_at)
        if known and self._last["status"] != "IN_PROGRESS":
            # It is done, but the cloud has not heard: the device was stopped in between.
            await queue.report(job.job_id, self._last["status"], self._last["details"])
            return
        log.info("job %s: deployment %s", job.job_id, "resumed" if job.status == "IN_PROGRESS" else "begins")
        self._remember(job, "IN_PROGRESS", {})
        if not await queue.report(job.job_id, "IN_PROGRESS", {}) and job.status != "IN_PROGRESS":
            log.info("job %s is not wanted any more", job.job_id)
            return
        document, outcome = await self._deploy(job)
        details = {"detailed-deployment-status": outcome.detail}
        if outcome.cause:
            details["deployment-failure-cause"] = outcome.cause[:_DETAIL_LIMIT_CHARS]
            details["deployment-error-types"] = outcome.kind
        self._remember(job, outcome.status, details)
        if document:
            self._on_done(document, outcome)
        await queue.report(job.job_id, outcome.status, details)

    async def _deploy(self, job: Job) -> tuple[DeploymentDocument | None, Outcome]:
        try:
            document = parse_document(job.document)
        except DeploymentError as exc:
            log.error("job %s: %s", job.job_id, exc)
            return None, Outcome("FAILED_NO_STATE_CHANGE", str(exc), exc.kind)
        try:
            if self._dialect is LITE:
                check_document(job.document)
        except DeploymentError as exc:
            log.error("job %s: %s", job.job_id, exc)
            return document, Outcome("FAILED_NO_STATE_CHANGE", str(exc), exc.kind)
        return document, await self._deployer.run(document)

    def _remember(self, job: Job, status: str, details: dict[str, str]) -> None:
        self._last = {"jobId": job.job_id, "queuedAt": job.queued_at, "status": status, "details": details}
        write_json(self._path, self._last)
