"""Deployments as they come: AWS IoT jobs of the namespace aws-gg-deployment."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .backoff import Backoff
from .connection import Connection
from .errors import RequestRejectedError

log = logging.getLogger(__name__)

NAMESPACE = "namespace-aws-gg-deployment"
MESSAGE_LIMIT_BYTES = 1 << 20  # IoT Core's own limit is far lower: anything longer is not from it
_ANSWER_LIMIT_S = 15.0
_GET_ATTEMPTS = 4
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
                log.warning("the status %s of job %s was rejected: %s", status, job_id, exc)
                if exc.code in _FINAL_REJECTIONS:
                    return False
                await asyncio.sleep(self._resend_s)
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
        for _ in range(_GET_ATTEMPTS):
            try:
                self._take(await self._request(topic, message))
                return
            except (TimeoutError, RequestRejectedError) as exc:
                log.warning("the deployment queue was not answered: %s", exc or "time-out")
                await asyncio.sleep(backoff.next_s())

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
