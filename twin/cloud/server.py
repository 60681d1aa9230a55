"""The cloud's process: installs the extensions in a fixed order, then serves. Run: `python -m twin.cloud.server`."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app as ministack_app

from twin.cloud.loopback import LOOPBACK, LoopbackEventLoop
from twin.cloud.registry import Settings, background_work
from twin.cloud_process import EXTENSIONS_VARIABLE

logger = logging.getLogger("twin.server")

EXTENSIONS = (
    "twin.cloud.authorization",
    "twin.cloud.access_trail",
    "twin.cloud.implied_permissions",
    "twin.cloud.function_logs",
    "twin.cloud.buckets",
    "twin.cloud.instance_profiles",
    "twin.cloud.interrupted_stacks",
    "twin.cloud.failed_custom_resources",
    "twin.cloud.public_parameters",
    "twin.cloud.stack_operations",
    "twin.cloud.quick_waits",
    "twin.cloud.function_processes",
    "twin.cloud.iot",
    "twin.cloud.greengrass",
    "twin.cloud.observability",
    "twin.cloud.sagemaker",
    "twin.cloud.ec2",
    "twin.cloud.edge_server",
    # Last, so that its final snapshot is taken before the others stop.
    "twin.cloud.snapshots",
)
"""Modules or packages with `install(settings)`; a later one may wrap what an earlier one registered."""

_STOP_LIMIT_S = 10.0


async def _stop(names_and_stops: list[tuple[str, Any]]) -> None:
    for name, stop in names_and_stops:
        try:
            await asyncio.wait_for(stop(), _STOP_LIMIT_S)
        except Exception:
            logger.exception("%s did not stop as it should; going on", name)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """MiniStack's ASGI application, with the extensions' background work started and stopped around it."""
    if scope["type"] != "lifespan":
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
    await serve(application, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


def main() -> None:
    """Serve until SIGTERM.

    Raises:
        SystemExit: If a setting is missing or an extension cannot be installed; the log says which and why.
    """
    # The way to this package is not for the Lambda functions, which inherit the environment.
    os.environ.pop("PYTHONPATH", None)
    try:
        settings = Settings.from_environment()
    except ValueError as exc:
        logger.error("%s", exc)
        sys.exit(2)
    for name in (*EXTENSIONS[:-1], *os.environ.get(EXTENSIONS_VARIABLE, "").split(), EXTENSIONS[-1]):
        try:
            importlib.import_module(name).install(settings)
        except Exception:
            logger.exception("extension %s cannot be installed", name)
            sys.exit(1)
    with asyncio.Runner(loop_factory=LoopbackEventLoop) as runner:
        runner.run(_serve(settings))
        logging.shutdown()
        # Worker threads that wait for a hanging function would hold the process for minutes; the state is saved.
        os._exit(0)


if __name__ == "__main__":
    main()
