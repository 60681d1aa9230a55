"""No store of the twin grows with traffic for ever, and docs/twin.md says of each what bounds it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from ministack.core.iam_evaluator import EvalContext
from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs, eventbridge, s3, stepfunctions

from config.places import PACKAGE as REPOSITORY
from twin import status
from twin.cloud import authorization, bounds, cloudwatch, credentials
from twin.cloud.authorization import AccessTrail
from twin.cloud.greengrass import api as greengrass
from twin.cloud.iot import jobs
from twin.status import read_logs

DOCUMENT = (REPOSITORY / "docs" / "twin.md").read_text(encoding="utf-8")


class Put(Protocol):
    def __call__(self, key: str, *, age_s: float = 0.0) -> None: ...


@pytest.fixture(autouse=True)
def _account() -> Iterator[None]:
    with request_scope("000000000000", "us-east-1"):
        yield
    for store in (
        cloudwatch_logs._log_groups,
        cloudwatch_logs._log_records,
        eventbridge._events_log,
        stepfunctions._executions,
    ):
        store._data.clear()


def with_limits(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    # Of all groups together there are as many as in each stream.
    lower = tuple(
        bounds.Bound(each.store, limit * (3 if "all groups" in each.store else 1), each.trim) for each in bounds.BOUNDS
    )
    monkeypatch.setattr(bounds, "BOUNDS", lower)


def test_the_newest_of_everything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, 3)
    cloudwatch_logs._create_log_group({"logGroupName": "g"})
    for stream in range(5):
        cloudwatch_logs._create_log_stream({"logGroupName": "g", "logStreamName": f"s{stream}"})
        for line in range(4):
            event = {"timestamp": line, "message": f"{stream}/{line}"}
            cloudwatch_logs._put_log_events({"logGroupName": "g", "logStreamName": f"s{stream}", "logEvents": [event]})
    eventbridge._events_log_list().extend(range(10))
    for number in range(10):
        running = number == 0
        stepfunctions._executions[f"e{number}"] = {"status": "RUNNING" if running else "SUCCEEDED"}

    asyncio.run(bounds.trim())
    asyncio.run(bounds.trim())

    streams = cloudwatch_logs._log_groups["g"]["streams"]
    assert list(streams) == ["s2", "s3", "s4"]
    assert [event["message"] for event in streams["s4"]["events"]] == ["4/1", "4/2", "4/3"]
    assert [record["@message"] for record in cloudwatch_logs._log_records.values()] == ["4/1", "4/2", "4/3"]
    assert eventbridge._events_log_list() == [7, 8, 9]
    assert list(stepfunctions._executions) == ["e0", "e7", "e8", "e9"]


def test_of_all_log_events_the_longest_streams_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for group, count in (("deploy", 2), ("rule", 40), ("function", 7)):
        cloudwatch_logs._create_log_group({"logGroupName": group})
        cloudwatch_logs._create_log_stream({"logGroupName": group, "logStreamName": "s"})
        events = [{"timestamp": line, "message": str(line)} for line in range(count)]
        cloudwatch_logs._put_log_events({"logGroupName": group, "logStreamName": "s", "logEvents": events})

    bounds._all_log_events(20)

    kept = {name: group["streams"]["s"]["events"] for name, group in cloudwatch_logs._log_groups.items()}
    assert {name: len(events) for name, events in kept.items()} == {"deploy": 2, "rule": 10, "function": 7}
    assert [event["message"] for event in kept["rule"]] == [str(line) for line in range(30, 40)]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Puts objects into a versioned bucket whose lifecycle expires `results/`; each is a second newer than the last."""
    monkeypatch.setattr(s3, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(s3, "S3_PERSIST", True)
    s3._create_bucket("bucket", b"", {})
    s3._bucket_versioning["bucket"] = "Enabled"
    results = {"Status": "Enabled", "Filter": {"Prefix": "results/"}, "Expiration": {"Days": 30}}
    old = {"Status": "Enabled", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    s3._bucket_lifecycle["bucket"] = [old, {**results, "Status": "Disabled", "Filter": {"Prefix": ""}}, results]

    now = time.time()  # for all of them: what is put later is no younger than its age says

    def put(key: str, *, age_s: float = 0.0) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now - age_s))
        monkeypatch.setattr(s3, "now_iso", lambda: moment)
        assert s3._put_object("bucket", key, key.encode(), {})[0] == 200

    yield put
    for store in (s3._buckets, s3._bucket_versioning, s3._bucket_lifecycle, s3._object_versions):
        store._data.clear()


def objects_left() -> set[str]:
    versions = {key for _account, (_bucket, key) in s3._object_versions._data}
    assert versions == set(s3._buckets["bucket"]["objects"])
    return versions


def test_the_newest_of_what_a_lifecycle_expires_is_kept_and_the_rest_is_gone_from_the_disk(
    bucket: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_limits(monkeypatch, 3)
    for number in (4, 1, 3, 0, 2):
        bucket(f"results/{number}", age_s=100 - number)
        bucket(f"artifacts/{number}")
    bucket("results/2", age_s=98)

    asyncio.run(bounds.trim())

    artifacts = {f"artifacts/{number}" for number in range(5)}
    assert objects_left() == {"results/2", "results/3", "results/4"} | artifacts
    assert len([path for path in tmp_path.rglob("*") if path.is_file() and "results" in path.parts]) == 7
    assert s3._get_object_data("bucket", "results/4") == b"results/4"


def test_more_goes_than_comes_meanwhile(bucket: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    with_limits(monkeypatch, 3)
    come = 0

    async def come_in_between() -> None:
        nonlocal come
        while True:
            for _ in range(5):
                bucket(f"results/{come:05}")
                come += 1
            await asyncio.sleep(0)

    async def trim() -> None:
        guests = asyncio.create_task(come_in_between())
        while come < 200:
            await asyncio.sleep(0)
        for _ in range(5):
            await bounds.trim()
        guests.cancel()

    asyncio.run(trim())

    # As many as come while one pass goes over the rest, not all that ever came.
    assert come > 200
    assert len(objects_left()) < come / 4


def test_old_versions_of_one_key_are_bounded_and_the_current_one_stays(
    bucket: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_limits(monkeypatch, 3)
    for age_s in range(10, 0, -1):
        bucket("artifacts/same", age_s=age_s)
    bucket("artifacts/other", age_s=2 * 86_400)
    bucket("artifacts/other", age_s=0)

    asyncio.run(bounds.trim())

    versions = {key: len(history) for (_account, (_bucket, key)), history in s3._object_versions._data.items()}
    # The old version of the other key is older than a day.
    assert versions == {"artifacts/same": 4, "artifacts/other": 1}
    assert s3._get_object_data("bucket", "artifacts/same") == b"artifacts/same"


def test_what_is_older_than_its_lifecycle_says_goes(bucket: Put) -> None:
    bucket("results/old", age_s=31 * 86_400)
    bucket("results/young", age_s=29 * 86_400)
    bucket("artifacts/old", age_s=31 * 86_400)

    asyncio.run(bounds.trim())

    assert objects_left() == {"results/young", "artifacts/old"}


def test_a_log_keeps_its_second_half_and_whoever_appends_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "cloud.log"
    with log.open("ab", buffering=0) as appending:
        for number in range(100):
            appending.write(f"line {number:03}\n".encode())
        bounds.shorten(log, 1000)
        assert log.stat().st_size == 900  # not yet

        bounds.shorten(log, 500)
        appending.write(b"after\n")

    lines = log.read_text().splitlines()
    assert lines[-2:] == ["line 099", "after"]
    assert lines[0] == "line 073"
    assert log.stat().st_size <= 500


def test_the_trail_of_requests_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "TRAIL_LINES", 5)
    trail = AccessTrail(tmp_path / "access.jsonl")
    for number in range(20):
        trail.note(context(f"arn:aws:s3:::bucket/{number}"), allowed=True)

    assert len((tmp_path / "access.jsonl").read_text().splitlines()) == 5


def context(resource: str) -> Any:
    return EvalContext("arn", "AssumedRole", "0" * 12, "s3:GetObject", resource, "r")


def test_a_thousand_notifications_leave_room_for_what_else_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_GATHER_S", 0.001)
    notifier = jobs.JobNotifier(quiet_s=0.2)
    queues = [jobs.Queue("000000000000", "us-east-1", f"line-{number}", "greengrass") for number in range(100)]
    taken = asyncio.Event()
    asked, published, replied_at = 0, list[tuple[str, str, int, float]](), 0.0

    def read(_queue: jobs.Queue) -> tuple[jobs.QueueState, list[Any], None]:
        return jobs.QueueState("job", frozenset({("job", 1)})), [], None

    async def publish(queue: jobs.Queue, kind: str, _document: Any) -> None:
        if queue is queues[0]:
            await taken.wait()  # as a device whose socket is full
        published.append((queue.thing, kind, asked, time.monotonic()))

    async def ask() -> None:
        nonlocal asked
        while True:
            asked += 1
            await asyncio.sleep(0)

    async def run() -> None:
        monkeypatch.setattr(notifier, "_read", read)
        monkeypatch.setattr(notifier, "_publish", publish)
        asking = asyncio.create_task(ask())
        late = [asyncio.create_task(notifier._notify_late(queue)) for queue in queues]
        # While others have their turn, this one is answered: it is notified once it has been quiet for long enough.
        await asyncio.sleep(0)
        notifier.replied(*queues[50][:3])
        nonlocal replied_at
        replied_at = time.monotonic()
        async with asyncio.timeout(30):
            await asyncio.gather(*late[1:])
            taken.set()
            await late[0]
        asking.cancel()

    asyncio.run(run())

    told = {thing: (between, at) for thing, kind, between, at in published if kind == "notify"}
    assert len(told) == len(published) // 2 == len(queues)
    assert len({between for between, _at in told.values()}) == len(queues), "none of them in one go with another"
    assert told["line-50"][1] - replied_at >= 0.19


def test_sessions_past_their_end_are_looked_for_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[float] = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(credentials, "_evicted", [])
    monkeypatch.setattr(credentials, "time", SimpleNamespace(monotonic=lambda: clock.now))

    for clock.now in (100.0, 101.0, 159.9, 160.0, 161.0):
        credentials._evict(lambda: looked.append(clock.now))

    assert looked == [100.0, 160.0]


def test_every_bound_is_in_the_documents_table() -> None:
    limits = {each.store: each.limit for each in bounds.BOUNDS}
    for store, limit in limits.items():
        assert f"| {store} | {limit:,} |" in DOCUMENT
    for number in (
        cloudwatch.SERIES,
        cloudwatch.SECONDS,
        cloudwatch.MINUTES,
        cloudwatch.HISTORY,
        authorization.TRAIL_LINES,
    ):
        assert f"{number:,}" in DOCUMENT


def test_every_store_of_the_twins_own_is_in_the_documents_table() -> None:
    calls = re.compile(r'register_store\(f?"([\w{}.()]+)"')
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "twin" / "cloud").rglob("*.py")]
    names = {name.partition("{")[0] for text in sources for name in calls.findall(text)}
    names |= {name for each in greengrass._CALLS for name in each.STORES}

    assert {"sessions", "greengrass_components", "compilation_jobs"} <= names
    assert [name for name in sorted(names) if f"`{name}" not in DOCUMENT] == []


def test_logs_that_nobody_else_keeps_short_are_kept_short(tmp_path: Path) -> None:
    logs = [tmp_path / "log" / name for name in ("cloud.log", "edge_server.log")]
    logs.append(tmp_path / "simulated" / "log" / "core_device.log")
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("a line\n" * 1000)

    bounds.shorten_logs(tmp_path, 700)

    assert {log.stat().st_size for log in logs} == {343}


def test_of_a_long_log_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_FIRST_BYTES", 100)
    monkeypatch.setattr(status, "_LINE_BYTES", 1)
    log = tmp_path / "log" / "cloud.log"
    log.parent.mkdir()
    log.write_text("".join(f"line {number:04}\n" for number in range(1000)))

    told = list(read_logs(tmp_path, "cloud", last=90, follow=False))

    assert told == [f"line {number:04}" for number in range(990, 1000)]  # 100 bytes in whole lines
    assert len(list(read_logs(tmp_path, "cloud", last=90, follow=False, about="line"))) == 90
    assert len(list(read_logs(tmp_path, "cloud", last=20_000, follow=False))) == 1000
