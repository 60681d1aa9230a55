"""What a running twin looks like from outside: its cloud and its edge servers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from twin.edge_processes import instances_folder
from twin.state import TwinState


@dataclass(frozen=True)
class EdgeServerStatus:
    """An EC2 instance that runs a core device.

    `phase` is provisioning, running, restarting, stopping or failed; `last_event` is a sentence, `since` epoch seconds.
    """

    instance_id: str
    thing_name: str
    phase: str
    pid: int | None
    last_event: str
    since: float


@dataclass(frozen=True)
class TwinStatus:
    """A running twin."""

    state: TwinState
    edge_servers: list[EdgeServerStatus]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        state = self.state
        return {
            "running": True,
            "home": str(state.home),
            "pid": state.pid,
            "endpoint": state.gateway_url,
            "region": state.region,
            "account": state.account,
            **state.ports,
            "edge_servers": [asdict(server) for server in self.edge_servers],
        }


def take_status(state: TwinState) -> TwinStatus:
    """Read what the supervisor in the cloud's process noted about each edge server.

    Args:
        state: Of a running twin.

    Returns:
        The status now; an edge server whose note is being written is left out.
    """
    servers = []
    for path in sorted(instances_folder(state.home).glob(f"*/{STATUS_FILE}")):
        try:
            servers.append(EdgeServerStatus(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return TwinStatus(state, servers)


STATUS_FILE = "edge_server.json"
