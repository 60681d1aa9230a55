"""The end of the IPC's server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.core_device.loopback_service import LoopbackService
from twin.core_device.ipc.server import IpcServer


def test_a_client_that_is_connected_when_the_server_stops_is_disconnected_without_a_word(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def stop_beside_a_client() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        server = IpcServer(LoopbackService(tmp_path).service)
        await server.start(tmp_path / "ipc.socket")
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "ipc.socket")
            while not server._clients:
                await asyncio.sleep(0.01)
            await server.stop()
            rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(stop_beside_a_client()) == b""
    assert told == []
