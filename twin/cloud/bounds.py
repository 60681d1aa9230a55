"""How much of what traffic leaves behind is kept: MiniStack keeps all, copies it each second, and never lets go.

What a person makes (stacks, things, components, objects) has no bound: it is theirs to delete. docs/twin.md has both.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs, eventbridge, s3, stepfunctions

from twin.cloud.ministack.registry import register_periodic
from twin.cloud.settings import Settings
from twin.cloud_process import CLOUD_LOG

INTERVAL_S = 5.0


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
        for rule in rules if isinstance(rules, list) else ():
            days = (rule.get("Expiration") or {}).get("Days")
            if days is None or rule["Status"] != "Enabled" or rule["Filter"].keys() - {"Prefix"}:
                continue
            await _expire(account, name, rule["Filter"].get("Prefix", ""), days, limit)


async def _expire(account: str, name: str, prefix: str, days: int, limit: int) -> None:
    bucket = s3._buckets._data.get((account, name))
    if bucket is None:
        return
    objects: dict[str, Any] = bucket["objects"]
    keys = [key for key in objects if key.startswith(prefix)]
    keys.sort(key=lambda key: objects[key]["last_modified"])
    eldest = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - days * 86_400))
    for place, key in enumerate(keys):
        record = objects.get(key)
        if place >= len(keys) - limit and (record is None or record["last_modified"] >= eldest):
            break
        with request_scope(account, bucket.get("region") or s3.get_region()):
            versions = [each["version_id"] for each in s3._object_versions.get((name, key)) or ()]
            for version in versions or ["null"]:
                s3._delete_object_version(bucket, name, key, version)
        # Requests are answered in between.
        await asyncio.sleep(0)


def _oldest_out(store: dict[Any, Any], limit: int) -> None:
    for key in list(store)[: max(0, len(store) - limit)]:
        store.pop(key, None)


BOUNDS = (
    Bound("log streams of a group", 200, _log_streams),
    Bound("log events of a stream", 5000, _log_events),
    Bound("log records for queries", 20_000, _log_records),
    Bound("events on a bus", 1000, _events),
    Bound("ended executions of state machines", 1000, _executions),
    Bound("objects that a rule of their bucket's lifecycle expires", 10_000, _expiring_objects),
)
"""What grows with traffic, besides the metrics (twin/cloud/metrics.py)."""

LOG_BYTES = 32 << 20
"""Of the cloud's log; from there on the older half is gone."""


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


def install(settings: Settings) -> None:
    """Trim every five seconds."""

    async def keep_within() -> None:
        await trim()
        shorten(settings.home / CLOUD_LOG)

    register_periodic("bounds", keep_within, interval_s=INTERVAL_S)
