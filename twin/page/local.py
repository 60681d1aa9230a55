"""The page of a twin: where it looks, what it may do, and the command that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import webbrowser
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
import typer
from botocore.config import Config

from config.names import Names
from config.stage import Stage
from twin import TwinError, faults, inventory
from twin import predict as asking
from twin.clock import Clock
from twin.operator import OperatorClient
from twin.page.live import Source
from twin.page.server import listener, serve
from twin.ports import LOOPBACK
from twin.process import CUT_OFF, device_pid
from twin.state import TwinState, load_state
from twin.status import device_roots, find_logs

_BOUNDED = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, max_pool_connections=20)
_ANSWER_S = 15.0
_ROW = 10_000  # characters


def of_twin(home: Path, stage: Stage) -> Source:
    """Where the page of a twin looks.

    Args:
        home: The twin's state folder; a twin that ends and is started again is found again.
        stage: Whose page.
    """
    names = Names(stage.name)

    def state() -> TwinState:
        found = load_state(home)
        if found is None or not found.running:
            raise TwinError(f"the twin in {home} has ended: start it again with `python -m twin up`")
        return found

    def clients(service: str) -> Any:
        return boto3.client(service, config=_BOUNDED, **state().client_arguments())

    def connect() -> AbstractContextManager[asking.Link]:
        return OperatorClient(state())

    def ask(link: asking.Link, model: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        asked = _question(stage, model, fields)
        return {"note": asked.note, **asking.ask(link, names, asked, _ANSWER_S)}

    return Source(
        stage=stage,
        where=f"the twin in {os.path.relpath(home) if home.is_relative_to(Path.cwd()) else home}",
        clients=clients,
        connect=connect,
        left=lambda: {kind: found for kind, found in inventory.take(state()).items() if kind != inventory.BOOTSTRAP},
        everything=True,
        processes=lambda: _processes(home),
        clock=lambda: Clock.read(state().clock),
        logs=lambda: _logs(home),
        ask=ask,
        faults=faults.FAULTS,
        fault=lambda device, fault: faults.do(state(), device, fault, names.inference_component),
    )


def _question(stage: Stage, model: str, fields: Mapping[str, Any]) -> asking.Question:
    """What the page's form asks.

    Raises:
        TwinError: It cannot be asked.
    """
    listed = [each.folder for each in stage.models]
    if model not in listed:
        raise TwinError(f"model must be one of {', '.join(listed)}, got {model!r}")
    device, index, row = fields.get("device"), fields.get("index"), fields.get("features")
    if isinstance(picture := fields.get("image"), bytes):
        asked = asking.of_picture(model, picture, "the picture")
    elif type(index) is int and index >= 0:
        asked = asking.question(stage, model, index, None, None, None)
    elif isinstance(row, str) and len(row) <= _ROW:
        asked = asking.question(stage, model, None, None, row, None)
    else:
        raise TwinError(f"a picture, a row or a sample's place from 0 on must be given, got {json.dumps(index)}")
    if isinstance(device, str) and device:
        asked.request["device"] = device
    return asked


def _processes(home: Path) -> dict[str, str]:
    found = {}
    for thing, root in device_roots(home).items():
        pid = device_pid(root)
        found[thing] = "not running" if pid is None else "cut off" if (root / CUT_OFF).exists() else "running"
    return found


def _logs(home: Path) -> dict[str, Path]:
    """Log files by name, those of an edge server with its thing's name for the instance id."""
    things = {root.name: thing for thing, root in device_roots(home).items()}
    found = {}
    for name, path in find_logs(home, "").items():
        device, slash, component = name.partition("/")
        found[f"{things.get(device, device)}{slash}{component}"] = path
    return found


def run(source: Source, port: int | None, *, open_it: bool) -> None:
    """Serve a page until Ctrl-C, and say where.

    Args:
        source: Where it looks.
        port: Its port; a free one by default.
        open_it: Open it in the browser.

    Raises:
        TwinError: The port is taken.
    """
    try:
        taken = listener(port)
    except OSError as exc:
        raise TwinError(f"--port must be free, got {port}: {exc.strerror}: leave it out for any free one") from exc
    with taken:
        token = secrets.token_urlsafe(18)
        address = f"http://{LOOPBACK}:{taken.getsockname()[1]}/{token}/"
        typer.echo(f"The page of stage {source.stage.name}, {source.where}: {address}\nCtrl-C ends it.")
        if open_it:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)
        asyncio.run(serve(source, taken, token))
