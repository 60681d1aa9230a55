"""The cloud's process: installs the extensions in a fixed order, then serves. Run: `python -m twin.cloud.server`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app as ministack_app

from twin.cloud import rates, snapshots
from twin.cloud.doors import guarded
from twin.cloud.iot import registry
from twin.cloud.iot.front import end_cut_off
from twin.cloud.ministack.patches import EXTENSIONS, LEDGER, PatchError
from twin.cloud.ministack.registry import background_work
from twin.cloud_process import EXTENSIONS_VARIABLE, Settings
from twin.ports import LOOPBACK
from twin.process import allow_open_files
from twin.state import FLEET_PATH, NETWORK_PATH, SAVE_PATH

logger = logging.getLogger("twin.server")

_STOP_LIMIT_S = 10.0


_BACKLOG = 1024


class LoopbackEventLoop(asyncio.SelectorEventLoop):
    """Binds every TCP listener to 127.0.0.1, whatever address was asked for: MiniStack's MQTT broker asks for all."""

    async def create_server(
        self,
        protocol_factory: Any,
        host: Any = None,  # noqa: ARG002 - replaced by loopback
        port: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> asyncio.Server:
        """As the base class, on 127.0.0.1.

        Raises:
            ValueError: If a ready-made socket listens on another address.
        """
        if sock is None:
            # A crowd of clients must not fill the queue: the ones that come after it would wait for seconds.
            options.setdefault("backlog", _BACKLOG)
            return await super().create_server(protocol_factory, LOOPBACK, port, **options)
        if sock.getsockname()[0] != LOOPBACK:
            raise ValueError(f"listeners of the twin must be on {LOOPBACK}, got {sock.getsockname()[0]}")
        return await super().create_server(protocol_factory, sock=sock, **options)


async def _stop(names_and_stops: list[tuple[str, Any]]) -> None:
    for name, stop in names_and_stops:
        try:
            await asyncio.wait_for(stop(), _STOP_LIMIT_S)
        except Exception:
            logger.exception("%s did not stop as it should; going on", name)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """MiniStack's ASGI application, with the extensions' background work started and stopped around it."""
    if scope["type"] == "http" and scope["path"] == SAVE_PATH:
        await snapshots.answer(scope, send)
        return
    if scope["type"] == "http" and scope["path"] == NETWORK_PATH and scope["method"] == "POST":
        await end_cut_off(send)
        return
    if scope["type"] == "http" and scope["path"] == FLEET_PATH:
        await registry.answer(scope, receive, send)
        return
    if scope["type"] != "lifespan":
        if not await rates.throttled(scope, send):
            await ministack_app.app(scope, receive, send)
        return
    started: list[tuple[str, Any]] = []

    async def receive_and_stop() -> Any:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await _stop(started[::-1])
        return message

    async def start_and_send(message: dict[str, Any]) -> None:
        if message["type"] == "lifespan.startup.complete":
            for work in background_work():
                try:
                    await work.start()
                except Exception as exc:
                    logger.exception("%s did not start", work.name)
                    await _stop(started[::-1])
                    await send({"type": "lifespan.startup.failed", "message": f"{work.name}: {exc}"})
                    return
                if work.stop is not None:
                    started.append((work.name, work.stop))
        await send(message)

    await ministack_app.app(scope, receive_and_stop, start_and_send)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = Config()
    config.bind = [f"{LOOPBACK}:{settings.gateway_port}"]
    config.keep_alive_timeout = 75
    # A custom resource that hangs keeps its connection: it must not keep the server.
    config.graceful_timeout = 2
    config.shutdown_timeout = 30
    config.loglevel = "WARNING"
    await serve(guarded(application, settings), config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


def install(names: Sequence[str], settings: Settings) -> None:
    """Import the extensions, install them, and put their patches in place: all of it or nothing.

    Raises:
        SystemExit: If one cannot be installed, or MiniStack is not as the patches expect it; the log says what.
    """
    modules = []
    for name in names:
        with _explained(name):
            modules.append(importlib.import_module(name))
    with _explained("twin.cloud.ministack"):
        LEDGER.check()
    for module in modules:
        if hasattr(module, "install"):
            with _explained(module.__name__):
                module.install(settings)
    with _explained("twin.cloud.ministack"):
        LEDGER.apply()


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except PatchError as exc:
        logger.error("%s", exc)
        sys.exit(1)
    except Exception:
        logger.exception("extension %s cannot be installed", name)
        sys.exit(1)


def main() -> None:
    """Serve until SIGTERM.

    Raises:
        SystemExit: If a setting is missing or an extension cannot be installed; the log says which and why.
    """
    allow_open_files()
    # The way to this package is not for the Lambda functions, which inherit the environment.
    os.environ.pop("PYTHONPATH", None)
    try:
        settings = Settings.from_environment()
    except ValueError as exc:
        logger.error("%s", exc)
        sys.exit(2)
    install((*EXTENSIONS[:-1], *os.environ.get(EXTENSIONS_VARIABLE, "").split(), EXTENSIONS[-1]), settings)
    # A full collection would go through all modules each time, and hold all that is asked up meanwhile.
    gc.freeze()
    with asyncio.Runner(loop_factory=LoopbackEventLoop) as runner:
        runner.run(_serve(settings))
        logging.shutdown()
        # Worker threads that wait for a hanging function would hold the process for minutes; the state is saved.
        os._exit(0)


if __name__ == "__main__":
    main()
