"""Snapshots of the cloud's state while it runs; MiniStack alone saves at a clean shutdown only."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from ministack import app as ministack_app
from ministack.core import persistence
from ministack.services import sts

from twin.cloud.ministack.registry import register_periodic, register_store
from twin.cloud.settings import Settings

logger = logging.getLogger("twin.snapshots")

INTERVAL_S = 1.0
_BUSY_SHARE = 0.1
"""At most this share of the time goes into snapshots: after a slow one the next waits longer."""


class Snapshots:
    """Writes the state of each service that changed since it was last written, each file at once or not at all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._written: dict[str, bytes] = {}

    async def take(self) -> None:
        """Write what changed. The states are read in one step of the event loop, so that they fit together."""
        states = {}
        for service, get_state in ministack_app._build_persistence_save_dict().items():
            try:
                state = get_state()
            except RuntimeError:
                # A worker thread changed the store while it was copied; the next snapshot has it.
                continue
            if state is not None:
                states[service] = state
        await asyncio.to_thread(self._write, states)

    def _write(self, states: dict[str, Any]) -> None:
        for service, state in states.items():
            document = {"__ministack_format__": persistence._state_format_version(service), "payload": state}
            try:
                content = json.dumps(document, default=persistence._json_default).encode()
            except TypeError:
                logger.exception("state of %s cannot be written", service)
                continue
            digest = hashlib.sha256(content).digest()
            if self._written.get(service) == digest:
                continue
            temporary = self._folder / f"{service}.snapshot"
            temporary.write_bytes(content)
            temporary.replace(self._folder / f"{service}.json")
            self._written[service] = digest


def install(settings: Settings) -> None:
    """Snapshot into MiniStack's own state folder, in its own format."""
    # The temporary credentials in use: without them a device's requests would be refused after a restart.
    register_store("sessions", sts._sessions)
    snapshots = Snapshots(Path(persistence.STATE_DIR) if persistence.PERSIST_STATE else settings.home / "state")
    register_periodic("snapshots", snapshots.take, interval_s=INTERVAL_S, busy_share=_BUSY_SHARE)
