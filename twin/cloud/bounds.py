"""How much of what traffic leaves behind is kept: MiniStack keeps all, copies it each second, and never lets go.

What a person makes (stacks, things, components, objects) has no bound: it is theirs to delete. docs/twin.md has both.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs, eventbridge, s3, stepfunctions

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud_process import CLOUD_LOG, EDGE_SERVER_LOG, Settings
from twin.process import TRIM_S, fleet_folder, trim_memory

INTERVAL_S = 5.0

Version = tuple[dict[str, Any], str, str | None]
"""A record of MiniStack's, its key, and which version it is of those of the key; None for all of them."""


@dataclass(frozen=True)
class Bound:
    """What is kept of one store.

    Attributes:
        store: Name for people, as in docs/twin.md.
        limit: So many are kept at most, the newest ones.
        trim: Drops the rest; is given the limit.
    """

    store: str
    limit: int
    trim: Callable[[int], Awaitable[None] | None]


def _log_streams(limit: int) -> None:
    for group in list(cloudwatch_logs._log_groups._data.values()):
        streams: dict[str, Any] = group["streams"]
        # A function's invocation has a stream of its own; they come in order.
        for name in list(streams)[: max(0, len(streams) - limit)]:
            del streams[name]


def _log_events(limit: int) -> None:
    for group in list(cloudwatch_logs._log_groups._data.values()):
        for stream in list(group["streams"].values()):
            with cloudwatch_logs._log_events_lock:
                if len(stream["events"]) > limit:
                    stream["events"] = stream["events"][-limit:]


def _all_log_events(limit: int) -> None:
    """The longest streams give way: what a function wrote once in a deploy stays, where a rule writes all day."""
    streams = [
        stream for group in list(cloudwatch_logs._log_groups._data.values()) for stream in group["streams"].values()
    ]
    lengths = [len(stream["events"]) for stream in streams]
    most = limit
    while sum(min(length, most) for length in lengths) > limit:
        most //= 2
    for stream in streams:
        with cloudwatch_logs._log_events_lock:
            if len(stream["events"]) > most:
                stream["events"] = stream["events"][-most:]


def _log_records(limit: int) -> None:
    _oldest_out(cloudwatch_logs._log_records._data, limit)


def _events(limit: int) -> None:
    for entries in list(eventbridge._events_log._data.values()):
        del entries[:-limit]


def _executions(limit: int) -> None:
    ended = {key: each for key, each in list(stepfunctions._executions._data.items()) if each["status"] != "RUNNING"}
    for key in list(ended)[: max(0, len(ended) - limit)]:
        stepfunctions._executions._data.pop(key, None)


async def _expiring_objects(limit: int) -> None:
    """What a bucket's lifecycle expires goes at its age, as on AWS, and before that where there is too much of it."""
    for (account, name), rules in list(s3._bucket_lifecycle._data.items()):
        bucket = s3._buckets._data.get((account, name))
        for rule in rules if isinstance(rules, list) and bucket is not None else ():
            if rule["Status"] != "Enabled" or rule["Filter"].keys() - {"Prefix"}:
                continue
            prefix = rule["Filter"].get("Prefix", "")
            if days := rule.get("Expiration", {}).get("Days"):
                objects = [(record, key, None) for key, record in bucket["objects"].items() if key.startswith(prefix)]
                await _expire((account, name), objects, days, limit)
            if days := rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"):
                versions = [
                    (version, key, version["version_id"])
                    for (owner, (held, key)), history in s3._object_versions._data.items()
                    if (owner, held) == (account, name) and key.startswith(prefix)
                    for version in history[:-1]
                ]
                await _expire((account, name), versions, days, limit)


@patch("services.s3.now_iso", why="objects have the twin's time: a deploy counts what came after it", signature="()")
def _now_iso(_by_ministack: Callable[[], str]) -> str:
    return datetime.fromtimestamp(CLOCK.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


_AT_A_TIME = 16


async def _expire(where: tuple[str, str], found: Iterable[Version], days: int, limit: int) -> None:
    """Delete what is too old or too much: one version of a key, or, without one, the key with its whole history."""
    found = sorted(found, key=lambda each: str(each[0]["last_modified"]))
    eldest = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(CLOCK.time() - days * 86_400))
    account, name = where
    for place, (record, key, version) in enumerate(found):
        if place >= len(found) - limit and record["last_modified"] >= eldest:
            break
        bucket = s3._buckets._data.get(where)
        if bucket is None:
            return
        with request_scope(account, bucket.get("region") or s3.get_region()):
            history = [each["version_id"] for each in s3._object_versions.get((name, key)) or ()]
            for each in [version] if version else (history or ["null"]):
                s3._delete_object_version(bucket, name, key, each)
        # Requests are answered in between, but no more of them come than go: one deletion a turn would fall behind.
        if place % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)


def _oldest_out(store: dict[Any, Any], limit: int) -> None:
    for key in list(store)[: max(0, len(store) - limit)]:
        store.pop(key, None)


BOUNDS = (
    Bound("log streams of a group", 200, _log_streams),
    Bound("log events of a stream", 5000, _log_events),
    Bound("log events of all groups", 20_000, _all_log_events),
    Bound("log records for queries", 20_000, _log_records),
    Bound("events on a bus", 1000, _events),
    Bound("ended executions of state machines", 1000, _executions),
    Bound("objects, or old versions, that a rule of their bucket's lifecycle expires", 2000, _expiring_objects),
)
"""What grows with traffic, besides the metrics (twin/cloud/cloudwatch.py)."""

LOG_BYTES = 32 << 20
"""Of the logs of the cloud and of the edge servers; from there on the older half is gone."""


def shorten(log: Path, limit_bytes: int = LOG_BYTES) -> None:
    """Keep the second half of a log that has grown beyond its limit; whoever appends to it goes on.

    Args:
        log: The file, which other processes may have open for appending.
        limit_bytes: Its limit.
    """
    try:
        if log.stat().st_size <= limit_bytes:
            return
        with log.open("r+b") as file:
            file.seek(-limit_bytes // 2, os.SEEK_END)
            kept = file.read().partition(b"\n")[2]
            file.seek(0)
            # A line that another process appends right now may be lost.
            file.truncate()
            file.write(kept)
    except OSError:
        # A full disk, say: the next time.
        return


async def trim() -> None:
    """Bring every store back to its limit."""
    for bound in BOUNDS:
        if (rest := bound.trim(bound.limit)) is not None:
            await rest


def shorten_logs(home: Path, limit_bytes: int = LOG_BYTES) -> None:
    """Shorten what nobody else does: devices keep their own logs short."""
    for log in (home / CLOUD_LOG, home / EDGE_SERVER_LOG, fleet_folder(home) / "log" / "core_device.log"):
        shorten(log, limit_bytes)


def install(settings: Settings) -> None:
    """Trim every five seconds."""

    async def keep_within() -> None:
        await trim()
        shorten_logs(settings.home)

    async def give_back() -> None:
        trim_memory()

    register_periodic("bounds", keep_within, interval_s=INTERVAL_S)
    register_periodic("memory", give_back, interval_s=TRIM_S)
