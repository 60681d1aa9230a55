"""The cloud's state on disk: written while it runs and at its end, and what cannot be written is told, never forgotten.

MiniStack alone writes at a clean shutdown only, and goes on in silence where it cannot.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ministack import app as ministack_app
from ministack.core import persistence
from ministack.core.responses import AccountScopedDict
from ministack.services import lambda_svc, s3, sts

from twin.cloud.ministack.patches import patch, require
from twin.cloud.ministack.registry import Response, register_periodic, register_store
from twin.cloud_process import Settings
from twin.files import try_room, write_together
from twin.state import unsaved_mark, unsaved_text

logger = logging.getLogger("twin.snapshots")

INTERVAL_S = 1.0
_BUSY_SHARE = 0.05
"""At most this share of the time goes into snapshots: after a slow one the next waits longer."""

_READS = 3
"""A store that a worker thread changes while it is copied is copied again."""

GetStates = dict[str, Callable[[], Any]]


class Snapshots:
    """Writes the state of each service that changed since it was last written, all of one moment or nothing.

    Args:
        folder: For the files; made if missing.

    Attributes:
        unsaved: Why the last attempt could not write a service's state; empty if all of it is on disk.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.unsaved: dict[str, str] = {}
        self._folder = folder
        self._written: dict[str, bytes] = {}
        # Two at a time would write the same temporary file, and the older state could come last.
        self._one_at_a_time = threading.Lock()

    async def take(self) -> None:
        """Write what changed. The states are read in one step of the event loop, so that they fit together."""
        states, unread = self._read(ministack_app._build_persistence_save_dict())
        await asyncio.to_thread(self._write, states, unread, set(_named_code))

    def take_last(self, services: GetStates) -> None:
        """Write what changed, at once, on the event loop: nothing is served any more."""
        self._write(*self._read(services), set(_named_code))

    def _read(self, services: GetStates) -> tuple[dict[str, str], dict[str, str]]:
        """The state of each service as the text of its file, and why a service has none."""
        texts, unread = {}, {}
        token = _reading.set(True)
        try:
            for service, get_state in services.items():
                for _attempt in range(_READS):
                    try:
                        state = get_state()
                        text = None if state is None else _as_text(service, state)
                    except (RuntimeError, TypeError) as exc:
                        unread[service] = str(exc)
                        continue
                    unread.pop(service, None)
                    if text is not None:
                        texts[service] = text
                    break
        finally:
            _reading.reset(token)
        return texts, unread

    def _write(self, states: dict[str, str], unread: dict[str, str], named_code: set[str]) -> None:
        with self._one_at_a_time:
            failed = dict(unread)
            digests = {service: hashlib.sha256(text.encode()).digest() for service, text in states.items()}
            changed = {name: text for name, text in states.items() if self._written.get(name) != digests[name]}
            try:
                # A stack of one moment and resources of another would not fit together.
                if changed:
                    write_together(self._folder, {f"{name}.json": text for name, text in changed.items()})
                self._written.update(digests)
                _prune_code(named_code | _named_code)
            except OSError as exc:
                failed |= dict.fromkeys(changed, str(exc))
            if failed != self.unsaved:
                told = unsaved_text(failed)
                logger.error("%s", f"not saved: {told}" if failed else "everything is saved again")
            self.unsaved = failed


def _as_text(service: str, state: Any) -> str:
    document = {"__ministack_format__": persistence._state_format_version(service), "payload": state}
    return json.dumps(document, default=_in_json)


def _in_json(value: Any) -> Any:
    """What JSON has no form for: a store of the twin's own, such as a metric, as its copy would be."""
    copied = getattr(value, "__deepcopy__", None)
    return copied({}) if copied is not None else persistence._json_default(value)


_reading: contextvars.ContextVar[bool] = contextvars.ContextVar("reading", default=False)


@patch(
    *(
        f"services.{service}.copy"
        for service in ("cloudformation", "cloudwatch_logs", "cloudwatch", "eventbridge", "iot", "s3", "stepfunctions")
    ),
    why="a state is written from what is there: a copy takes longer than the text, and nothing is served meanwhile",
    signature="module",
)
def _copied_only_where_kept(by_ministack: ModuleType) -> SimpleNamespace:
    def deepcopy(value: Any, memo: dict[int, Any] | None = None) -> Any:
        return value if _reading.get() else by_ministack.deepcopy(value, memo)

    return SimpleNamespace(**{**vars(by_ministack), "deepcopy": deepcopy})


_named_code: set[str] = set()
"""Digests of the functions' code that the state names which was read last."""


@patch(
    "services.lambda_svc._prune_orphan_code_blobs",
    why="code is deleted once the files name it no longer: after a kill they are the state, and its Deletes need it",
    signature="(referenced)",
)
def _keep_code(_prune: Callable[[set[str]], None], referenced: set[str]) -> None:
    _named_code.clear()
    _named_code.update(referenced)


def _prune_code(named: set[str]) -> None:
    for path in Path(lambda_svc.CODE_BLOB_DIR).glob("*.zip"):
        if path.stem not in named:
            path.unlink(missing_ok=True)


_snapshots: list[Snapshots] = []
_marks: list[Path] = []


@patch(
    "app.save_all",
    why="the state at the end is written by the twin, and what could not be written is known after it",
    signature="(services)",
)
def _save_at_the_end(_by_ministack: Callable[[GetStates], None], services: GetStates) -> None:
    for snapshots in _snapshots:
        snapshots.take_last(services)
        if not snapshots.unsaved:
            for mark in _marks:
                mark.unlink(missing_ok=True)


async def answer(scope: dict[str, Any], send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Answer the operator's question what is not saved; a POST saves first."""
    if scope["method"] == "POST":
        for snapshots in _snapshots:
            for _attempt in range(_READS):
                await snapshots.take()
                if not snapshots.unsaved:
                    break
    left = {name: why for snapshots in _snapshots for name, why in snapshots.unsaved.items()}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"unsaved": left}).encode()})


require("services.s3._error", why="an object that cannot be kept is refused", signature=(
    "(code, message, status, resource='', extra=None, headers=None)"
))  # fmt: skip

_unwritten: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("unwritten", default=None)
_ROOM_BESIDE = 64 << 10
"""Bytes for an object's metadata."""


@patch(
    "services.s3._atomic_write",
    why="MiniStack keeps an object whose file cannot be written in memory and answers 200",
    signature="(fpath, data, *, text=False)",
)
def _write_object(write: Callable[..., None], path: str, data: bytes, *, text: bool = False) -> None:
    try:
        write(path, data, text=text)
    except OSError as exc:
        if (failed := _unwritten.get()) is not None:
            failed.append(str(exc))
        raise


@patch(
    "services.s3._persist_object",
    why="MiniStack keeps the content of each version in a versioned bucket in memory, too",
    signature="(bucket, key, obj)",
)
def _forget_content(persist: Callable[..., None], bucket: str, key: str, record: Any) -> None:
    persist(bucket, key, record)
    # Its file could not be written if the record still has the content.
    if isinstance(record, dict) and record.get("body") is None:
        current = record.get("version_id") or "null"
        for version in s3._object_versions.get((bucket, key)) or ():
            if version["version_id"] == current:
                version["data"] = None


@patch(
    "app.SERVICE_HANDLERS[s3]",
    why="an object that cannot be kept is refused, and the one that it would replace stays",
    signature="async (method, path, headers, body, query_params)",
)
async def _refuse_what_cannot_be_kept(
    serve: Callable[..., Awaitable[Response]],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query: dict[str, list[str]],
) -> Response:
    failed: list[str] = []
    _unwritten.set(failed)
    if method in ("PUT", "POST"):
        try:
            try_room(Path(s3.DATA_DIR), len(body) + _ROOM_BESIDE)
        except OSError as exc:
            return _no_room(str(exc))
    response = await serve(method, path, headers, body, query)
    return _no_room(failed[0]) if failed and response[0] < 300 else response


def _no_room(why: str) -> Response:
    message = f"the twin cannot keep the object: {why}: make room in {s3.DATA_DIR}"
    status, headers, body = s3._error("ServiceUnavailable", message, 503)
    return status, headers, body


def forget_unknown_buckets() -> None:
    """Drop the buckets that were made after the last snapshot before a kill: their objects are on disk at once.

    The rest of the state is that of the snapshot: no stack knows them, and nobody would delete them.
    """
    saved = (persistence.load_state("s3") or {}).get("buckets_meta") or {}
    known = saved._data if isinstance(saved, AccountScopedDict) else {}
    for account, bucket in [key for key in s3._buckets._data if key not in known]:
        logger.warning("bucket %s was made in the last moment before the cloud was killed: it is gone", bucket)
        del s3._buckets._data[account, bucket]
        for folder in (Path(s3.DATA_DIR), Path(s3.DATA_DIR) / s3._VERSIONS_DIR):
            shutil.rmtree(folder / account / bucket, ignore_errors=True)


def install(settings: Settings) -> None:
    """Snapshot into MiniStack's own state folder, in its own format."""
    # The temporary credentials in use: without them a device's requests would be refused after a restart.
    register_store("sessions", sts._sessions)
    snapshots = Snapshots(Path(persistence.STATE_DIR) if persistence.PERSIST_STATE else settings.home / "state")
    mark = unsaved_mark(settings.home)
    _snapshots[:], _marks[:] = [snapshots], [mark]

    async def first() -> None:
        forget_unknown_buckets()
        mark.touch()

    register_periodic("snapshots", snapshots.take, interval_s=INTERVAL_S, busy_share=_BUSY_SHARE, first=first)
