"""The deployment queue as device-side conversation with IoT Jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.core_device.small_broker import SmallBroker, running_broker
from twin.core_device.cloud.connection import Connection
from twin.core_device.deployment.jobs import Job, JobQueue
from twin.core_device.errors import Backoff, RequestRejectedError

PREFIX = "$aws/things/thing-1/jobs"
NS = "namespace-aws-gg-deployment"


class JobsService:
    """Answers like IoT Jobs; `rejections` are used up one an update."""

    def __init__(self, broker: SmallBroker) -> None:
        self.broker = broker
        self.execution: dict[str, Any] | None = None
        self.updates: list[tuple[str, dict[str, Any]]] = []
        self.rejections: list[str] = []
        self.busy = 0  # so often it throttles who asks for a job
        broker.responder = self.answer

    def answer(self, topic: str, request: dict[str, Any]) -> None:
        token = request.get("clientToken")
        if topic == f"{PREFIX}/$next/{NS}/get" and self.busy:
            self.busy -= 1
            self._send(f"{topic}/rejected", {"clientToken": token, "code": "RequestThrottled", "message": "no"})
        elif topic == f"{PREFIX}/$next/{NS}/get":
            content = {"clientToken": token, **({"execution": self.execution} if self.execution else {})}
            self._send(f"{topic}/accepted", {"clientToken": "somebody else's", "execution": {"jobId": "wrong"}})
            self._send(f"{topic}/accepted", content)
        elif topic.endswith("/update"):
            self.updates.append((topic.split("/")[4], request))
            if self.rejections:
                self._send(f"{topic}/rejected", {"clientToken": token, "code": self.rejections.pop(0), "message": "no"})
            else:
                self._send(f"{topic}/accepted", {"clientToken": token})

    def _send(self, topic: str, content: dict[str, Any]) -> None:
        self.broker.send(topic, json.dumps(content).encode())


def run(folder: Path, scenario: Callable[[JobsService, JobQueue, asyncio.Queue[Job]], Awaitable[None]]) -> None:
    async def main() -> None:
        service = JobsService(SmallBroker())
        async with running_broker(service.broker, folder) as configuration:
            connection = Connection(configuration, Backoff(0.05, 0.1))
            jobs: asyncio.Queue[Job] = asyncio.Queue()
            queue = JobQueue(connection, "thing-1", jobs.put_nowait, resend_s=0.05)
            service.execution = execution("waiting", 5)
            await queue.start()
            task = asyncio.create_task(connection.run())
            try:
                async with asyncio.timeout(60):
                    await scenario(service, queue, jobs)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def execution(job_id: str, queued_at: int) -> dict[str, Any]:
    return {"jobId": job_id, "queuedAt": queued_at, "status": "QUEUED", "jobDocument": {"x": 1}}


def test_asks_for_the_waiting_job_on_each_connect(tmp_path: Path) -> None:
    async def scenario(service: JobsService, queue: JobQueue, jobs: asyncio.Queue[Job]) -> None:
        first = await jobs.get()
        service.broker.drop_clients()
        second = await jobs.get()

        assert first == second == Job("waiting", 5, "QUEUED", {"x": 1})

    run(tmp_path, scenario)


def test_asks_until_it_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.core_device.deployment.jobs.Backoff", lambda *_: Backoff(0.01, 0.01))

    async def scenario(service: JobsService, queue: JobQueue, jobs: asyncio.Queue[Job]) -> None:
        await jobs.get()
        service.busy = 10
        service.broker.drop_clients()

        assert (await jobs.get()).job_id == "waiting"
        assert service.busy == 0

    run(tmp_path, scenario)


def test_hears_of_a_new_job_and_ignores_garbage(tmp_path: Path) -> None:
    async def scenario(service: JobsService, queue: JobQueue, jobs: asyncio.Queue[Job]) -> None:
        await jobs.get()
        topic = f"{PREFIX}/notify-next-{NS}"
        deep = b"[" * 100_000
        for garbage in (
            b"",
            b"\xff",
            b"[]",
            deep,
            b'{"execution": 5}',
            b'{"execution": {"jobId": "x"}}',
            bytes(1 << 21),
        ):
            service.broker.send(topic, garbage)
        service.broker.send(topic, json.dumps({"execution": execution("new", 6)}).encode())

        assert (await jobs.get()).job_id == "new"
        assert jobs.empty()

    run(tmp_path, scenario)


def test_sends_a_status_again_until_it_is_taken(tmp_path: Path) -> None:
    async def scenario(service: JobsService, queue: JobQueue, jobs: asyncio.Queue[Job]) -> None:
        await jobs.get()
        service.rejections = ["InternalError"]

        taken = await queue.report("waiting", "SUCCEEDED", {"a": "b"})

        assert taken
        assert [(job, update["status"], update["statusDetails"]) for job, update in service.updates] == [
            ("waiting", "SUCCEEDED", {"a": "b"})
        ] * 2

    run(tmp_path, scenario)


def test_a_cancelled_job_takes_no_status(tmp_path: Path) -> None:
    async def scenario(service: JobsService, queue: JobQueue, jobs: asyncio.Queue[Job]) -> None:
        await jobs.get()
        service.rejections = ["TerminalStateReached"]

        assert not await queue.report("waiting", "SUCCEEDED", {})

    run(tmp_path, scenario)


class CutOnce:
    """A connection that is lost in the moment of the first publish, and comes back at once."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self.connected.set()
        self.published = 0
        self._receiver: Callable[[str, bytes], None] = lambda _topic, _payload: None

    async def subscribe(self, _filter: str, _qos: int, receiver: Callable[[str, bytes], None]) -> Callable[[], None]:
        self._receiver = receiver
        return lambda: None

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self.published += 1
        if self.published == 1:
            self.connected.clear()
            asyncio.get_running_loop().call_later(0.05, self.connected.set)
            raise RequestRejectedError("the device is not connected, and nucleus lite keeps no messages")
        content = {"clientToken": json.loads(payload)["clientToken"]}
        self._receiver(f"{topic}/accepted", json.dumps(content).encode())


def test_a_status_that_a_cut_has_held_up_is_sent_as_soon_as_the_line_is_back() -> None:
    async def main() -> None:
        connection = CutOnce()
        queue = JobQueue(cast(Connection, connection), "thing-1", lambda _job: None)  # a refused one waits for a minute
        async with asyncio.timeout(30):
            assert await queue.report("job-1", "SUCCEEDED", {})
        assert connection.published == 2

    asyncio.run(main())
