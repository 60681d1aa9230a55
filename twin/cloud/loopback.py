"""An event loop whose listeners are reachable from this machine only."""

from __future__ import annotations

import asyncio
from typing import Any

LOOPBACK = "127.0.0.1"
BACKLOG = 1024


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
            options.setdefault("backlog", BACKLOG)
            return await super().create_server(protocol_factory, LOOPBACK, port, **options)
        if sock.getsockname()[0] != LOOPBACK:
            raise ValueError(f"listeners of the twin must be on {LOOPBACK}, got {sock.getsockname()[0]}")
        return await super().create_server(protocol_factory, sock=sock, **options)
