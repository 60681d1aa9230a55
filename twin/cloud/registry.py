"""The seams between MiniStack and the twin's extensions: services, CloudFormation types, stores, start and stop.

An extension is a module with `install(settings)`, called once before the server starts. Everything an extension adds
goes through the functions here, so that MiniStack's private names stay in few places.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ministack import app as ministack_app
from ministack.services.cloudformation import provisioners, stacks

from twin.cloud.credentials import RoleCredentials, role_session
from twin.cloud.settings import Settings

__all__ = [
    "BackgroundWork",
    "RoleCredentials",
    "Settings",
    "background_work",
    "register_background",
    "register_service",
    "register_store",
    "register_type",
    "role_session",
]

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
_ministack_runs_on_worker_thread = stacks._runs_on_worker_thread


def _runs_on_worker_thread(cfn_type: str) -> bool:
    return cfn_type in _blocking_types or bool(_ministack_runs_on_worker_thread(cfn_type))


stacks._runs_on_worker_thread = _runs_on_worker_thread


class _StoreModule:
    """What MiniStack's persistence and reset expect of a service module, for one mapping."""

    def __init__(self, mapping: MutableMapping[Any, Any]) -> None:
        self._mapping = mapping

    def get_state(self) -> dict[str, Any]:
        return {"store": copy.deepcopy(self._mapping)}

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
