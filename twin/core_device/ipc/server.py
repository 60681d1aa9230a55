"""The IPC socket of a core device."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from .connection import Connection, SubscriptionBudget
from .service_model import IpcHandler, IpcLimits

log = logging.getLogger(__name__)


class IpcServer:
    """Serves the Greengrass IPC on a Unix domain socket.

    Args:
        handler: What the components' calls do.
        limits: What clients may ask; the default is that of nucleus lite.
    """

    def __init__(self, handler: IpcHandler, limits: IpcLimits | None = None) -> None:
        self.handler = handler
        self.limits = limits or IpcLimits()
        self._budget = SubscriptionBudget(self.limits.subscriptions)
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._listener: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen at a path, which is replaced when it exists; only the device's own user may connect."""
        path.unlink(missing_ok=True)
        self._listener = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._listener:
            self._listener.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def disconnect(self, component: str) -> None:
        """End a component's connections, as when its token is revoked."""
        for connection in self._connections.values():
            if connection.component == component:
                connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # nucleus lite, too, refuses the last one of its places
        if len(self._connections) >= self.limits.clients:
            log.warning("IPC: at most %d clients at once, one more was refused", self.limits.clients)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server always runs in a task
        self._connections[task] = connection = Connection(self.handler, self.limits, self._budget, reader, writer)
        # asyncio's streams (before Python 3.12) report a cancelled task as an unhandled exception: `stop` cancels.
        try:
            with suppress(asyncio.CancelledError):
                await connection.run()
        finally:
            del self._connections[task]
