"""What the twin's extensions add to MiniStack: services, CloudFormation types, stores, work with a start and a stop.

An extension is a module that declares patches, or has `install(settings)`, called once before the server starts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ministack import app as ministack_app
from ministack.services.cloudformation import provisioners

from twin.cloud.ministack.patches import patch, require

logger = logging.getLogger("twin.server")

require("app.SERVICE_HANDLERS", why="services are added", signature="dict")
require("app._state_map", why="stores are persisted and reset", signature="dict")
require("app._loaded_modules", why="stores are persisted and reset", signature="dict")
require("services.cloudformation.provisioners._RESOURCE_HANDLERS", why="types are added", signature="dict")
require("services.cloudformation.provisioners._REPLACING_PROPERTIES", why="types replace resources", signature="dict")

Response = tuple[int, dict[str, str], bytes | str]
"""Status, headers, body."""

ServiceHandler = Callable[[str, str, dict[str, str], bytes, dict[str, list[str]]], Awaitable[Response]]
"""(method, path, headers with lower-case names, body, query parameters) → response; runs on the event loop."""

CreateResource = Callable[[str, dict[str, Any], str], tuple[str, dict[str, Any]]]
"""(logical id, properties, stack name) → (physical id, attributes)."""

UpdateResource = Callable[[str, dict[str, Any], dict[str, Any], str], tuple[str, dict[str, Any]]]
"""(physical id, old properties, new properties, stack name) → (physical id, attributes)."""

DeleteResource = Callable[[str, dict[str, Any]], None]
"""(physical id, properties) → nothing; a resource that is gone already is success."""


def register_service(name: str, handler: ServiceHandler) -> None:
    """Serve an AWS service, or replace the handler of one that MiniStack has.

    Args:
        name: MiniStack's name of the service: the signing name, for instance `greengrass` or `sagemaker`.
        handler: Called for every request; to wrap MiniStack's own, read `ministack.app.SERVICE_HANDLERS[name]` first.
    """
    ministack_app.SERVICE_HANDLERS[name] = handler


def register_type(
    cfn_type: str,
    *,
    create: CreateResource,
    delete: DeleteResource,
    update: UpdateResource | None = None,
    replacing: Iterable[str] = (),
    blocking: bool = False,
) -> None:
    """Provision a CloudFormation resource type, or replace MiniStack's provisioner of it.

    Args:
        cfn_type: For instance `AWS::IoT::RoleAlias`.
        create: Makes the resource; raising fails the resource with the exception's text and rolls the stack back.
        delete: Removes it.
        update: Changes it in place. Without one every changed property must be in `replacing`.
        replacing: Properties whose change makes a new resource; the old one is deleted in the stack's cleanup phase.
        blocking: Run the three on a worker thread: they may wait, and call the gateway. Without it they run on the
            event loop and must do neither.
    """
    entry: dict[str, Any] = {"create": create, "delete": delete}
    if update is not None:
        entry["update"] = update
    provisioners._RESOURCE_HANDLERS[cfn_type] = entry
    if replacing:
        provisioners._REPLACING_PROPERTIES[cfn_type] = tuple(replacing)
    if blocking:
        _blocking_types.add(cfn_type)


_blocking_types: set[str] = set()


@patch(
    "services.cloudformation.stacks._runs_on_worker_thread",
    why="the twin's types that wait run on worker threads",
    signature="(resource_type)",
)
def _runs_on_worker_thread(by_ministack: Callable[[str], bool], resource_type: str) -> bool:
    return resource_type in _blocking_types or bool(by_ministack(resource_type))


class _StoreModule:
    """What MiniStack's persistence and reset expect of a service module, for one mapping."""

    def __init__(self, mapping: MutableMapping[Any, Any]) -> None:
        self._mapping = mapping

    def get_state(self) -> dict[str, Any]:
        # Not a copy: it is written as text before anything else happens.
        return {"store": self._mapping}

    def load_persisted_state(self, data: dict[str, Any]) -> None:
        self._mapping.update(data.get("store", {}))

    def reset(self) -> None:
        self._mapping.clear()


def register_store(name: str, mapping: MutableMapping[Any, Any]) -> None:
    """Persist a mapping with the twin's state, and empty it with `/_ministack/reset`.

    Args:
        name: Unique name; the state file is `twin_<name>.json`.
        mapping: A dict with string keys, or MiniStack's AccountScopedDict or AccountRegionScopedDict; values are JSON
            types (bytes too). It is updated in place when the state is loaded, before any request is served.
    """
    module = f"twin_{name}"
    if module in ministack_app._state_map:
        raise ValueError(f"store name must be unique, got {name!r} twice: give one of the two another name")
    ministack_app._loaded_modules[module] = _StoreModule(mapping)
    ministack_app._state_map[module] = module


@dataclass(frozen=True)
class BackgroundWork:
    """Work of an extension that lives as long as the server."""

    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]] | None


_background: list[BackgroundWork] = []


def register_background(
    name: str, *, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Run something with the server: a listener, a supervisor, a snapshot timer.

    Args:
        name: Named in the log and in the error that refuses to start.
        start: Awaited on the event loop after the persisted state is loaded and before the gateway serves, so it must
            return soon and make no request to the gateway (a task that it spawns may). Raising ends the server.
        stop: Awaited at shutdown, before MiniStack saves its state; at most 10 s, in reverse order of registration.
    """
    _background.append(BackgroundWork(name, start, stop))


def background_work() -> tuple[BackgroundWork, ...]:
    """Everything registered so far, in order."""
    return tuple(_background)


Work = Callable[[], Awaitable[None]]


def register_periodic(
    name: str,
    work: Work,
    *,
    interval_s: float,
    busy_share: float | None = None,
    first: Work | None = None,
    last: Work | None = None,
) -> None:
    """Do something again and again with the server; a failure is logged, and the work goes on.

    Args:
        name: As for `register_background`.
        work: Done at once and then after each interval.
        interval_s: Between its end and the next beginning.
        busy_share: At most this share of a processor goes into it: after a slow one the next waits longer.
        first: Awaited before the first time; raising ends the server.
        last: Awaited after the last time.
    """
    tasks: list[asyncio.Task[None]] = []

    async def repeat() -> None:
        while True:
            began, used = time.monotonic(), time.process_time()
            try:
                await work()
            except Exception:
                logger.exception("%s failed; trying again", name)
            # On a busy machine work takes longer, and costs no more.
            took = min(time.monotonic() - began, time.process_time() - used)
            await asyncio.sleep(max(interval_s, took / busy_share) if busy_share else interval_s)

    async def start() -> None:
        if first is not None:
            await first()
        tasks.append(asyncio.create_task(repeat()))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if last is not None:
            await last()

    register_background(name, start=start, stop=stop)
