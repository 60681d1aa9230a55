"""Deployments as they come: AWS IoT jobs of the namespace aws-gg-deployment, taken one by one and reported."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.clock import CLOCK
from twin.core_device.cloud.connection import Connection
from twin.core_device.dialect import LITE, Dialect, check_document
from twin.core_device.errors import Backoff, DeploymentError, RequestRejectedError
from twin.core_device.files import JSON_FILES, Documents

from .deployer import Deployer, Outcome
from .document import DeploymentDocument, parse_document

log = logging.getLogger(__name__)

NAMESPACE = "namespace-aws-gg-deployment"
MESSAGE_LIMIT_BYTES = 1 << 20  # IoT Core's own limit is far lower: anything longer is not from it
_DETAIL_LIMIT_CHARS = 1024  # IoT Jobs' quota for a value in the status details
_ANSWER_LIMIT_S = 15.0
_RESEND_S = 60.0
# Sending the same update again cannot change these answers.
_FINAL_REJECTIONS = (
    "InvalidTopic",
    "InvalidJson",
    "InvalidRequest",
    "InvalidStateTransition",
    "ResourceNotFound",
    "VersionMismatch",
    "TerminalStateReached",
)


@dataclass(frozen=True)
class Job:
    """A job execution waiting for this device.

    Args:
        job_id: The IoT job's id.
        queued_at: Epoch seconds; a job that is queued anew has a later one.
        status: `QUEUED`, or `IN_PROGRESS` when the device was interrupted.
        document: The job document, not checked yet.
    """

    job_id: str
    queued_at: int
    status: str
    document: Any


class JobQueue:
    """The device's queue of deployment jobs.

    Args:
        connection: The MQTT connection.
        thing_name: The device.
        on_job: Called with the job at the head of the queue, at every connect and whenever it changes.
        resend_s: Seconds until an unanswered status update is sent again.
    """

    def __init__(
        self, connection: Connection, thing_name: str, on_job: Callable[[Job], None], resend_s: float = _RESEND_S
    ) -> None:
        self._connection = connection
        self._prefix = f"$aws/things/{thing_name}/jobs"
        self._thing_name = thing_name
        self._on_job = on_job
        self._resend_s = resend_s
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follow the queue from the next connect on."""
        await self._connection.subscribe(f"{self._prefix}/notify-next-{NAMESPACE}", 1, self._on_notify)
        self._connection.on_connected(self._ask_soon)

    async def report(self, job_id: str, status: str, details: Mapping[str, str]) -> bool:
        """Tell the cloud a job's status, however long the way to it is closed.

        Args:
            job_id: The job.
            status: `IN_PROGRESS`, `SUCCEEDED` or `FAILED`.
            details: Texts for the job execution's status details.

        Returns:
            False when the cloud will not take it, because the job has been cancelled or is over.
        """
        topic = f"{self._prefix}/{job_id}/{NAMESPACE}/update"
        message = {"status": status, **({"statusDetails": dict(details)} if details else {})}
        while True:
            await self._connection.connected.wait()
            try:
                await self._request(topic, message)
            except TimeoutError:
                log.warning("the status %s of job %s was not answered, it is sent again", status, job_id)
            except RequestRejectedError as exc:
                log.warning("the status %s of job %s was not taken: %s", status, job_id, exc)
                if exc.code in _FINAL_REJECTIONS:
                    return False
                if not self._connection.connected.is_set():
                    continue  # the cloud has not said a word: the line was cut before
                await CLOCK.sleep(self._resend_s)
            else:
                return True

    def _ask_soon(self) -> None:
        if self._asking:
            self._asking.cancel()
        self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        topic = f"{self._prefix}/$next/{NAMESPACE}/get"
        message = {"jobId": "$next", "thingName": self._thing_name, "includeJobDocument": True}
        backoff = Backoff(2.0, 15.0)
        # As nucleus lite: until it is answered. A connection that is lost asks anew when it is back.
        while self._connection.connected.is_set():
            try:
                self._take(await self._request(topic, message))
                return
            except (TimeoutError, RequestRejectedError) as exc:
                log.warning("the deployment queue was not answered: %s", exc or "time-out")
                await CLOCK.sleep(backoff.next_s())

    async def _request(self, topic: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a request and wait for its answer.

        Raises:
            RequestRejectedError: The answer is a rejection.
            TimeoutError: No answer came in time.
        """
        token = str(uuid.uuid4())
        answer: asyncio.Future[tuple[str, dict[str, Any]]] = asyncio.get_running_loop().create_future()

        def receive(answer_topic: str, payload: bytes) -> None:
            content = _parse(answer_topic, payload)
            if content is not None and content.get("clientToken") == token and not answer.done():
                answer.set_result((answer_topic.rsplit("/", 1)[-1], content))

        cancel = await self._connection.subscribe(f"{topic}/+", 1, receive)
        try:
            self._connection.publish(topic, json.dumps({**message, "clientToken": token}).encode(), qos=1)
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                verdict, content = await answer
        finally:
            cancel()
        if verdict != "accepted":
            code = str(content.get("code", ""))
            raise RequestRejectedError(f"{code}: {content.get('message', '')}", code)
        return content

    def _on_notify(self, topic: str, payload: bytes) -> None:
        content = _parse(topic, payload)
        if content is not None:
            self._take(content)

    def _take(self, content: dict[str, Any]) -> None:
        execution = content.get("execution")
        if not execution:
            return
        try:
            job = Job(
                str(execution["jobId"]),
                int(execution["queuedAt"]),
                str(execution.get("status", "QUEUED")),
                execution.get("jobDocument"),
            )
        except (KeyError, TypeError, ValueError) as exc:
            log.error("a job execution is not understood and ignored: %r", exc)
            return
        self._on_job(job)


def _parse(topic: str, payload: bytes) -> dict[str, Any] | None:
    if len(payload) > MESSAGE_LIMIT_BYTES:
        log.error("a message of %d bytes on %s is ignored: the limit is %d", len(payload), topic, MESSAGE_LIMIT_BYTES)
        return None
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        log.error("a message on %s is ignored: it is not a JSON object", topic)
        return None
    return content


class DeploymentWorker:
    """Runs deployments and remembers how the last one ended, so that a restart neither loses nor repeats it.

    Args:
        path: The file that remembers.
        deployer: Carries them out.
        on_done: Called with the document and the outcome of each.
        dialect: Which deployments work.
        documents: Where the file is.
    """

    def __init__(
        self,
        path: Path,
        deployer: Deployer,
        on_done: Callable[[DeploymentDocument, Outcome], None],
        dialect: Dialect = LITE,
        documents: Documents = JSON_FILES,
    ) -> None:
        self._documents = documents
        self._path, self._deployer, self._on_done, self._dialect = path, deployer, on_done, dialect
        self._last: dict[str, Any] = documents.read(path) or {}
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
        try:
            self._documents.write(self._path, self._last)
        except OSError as exc:
            log.error("job %s: %s is not noted, a restart now carries it out again: %s", job.job_id, status, exc)
