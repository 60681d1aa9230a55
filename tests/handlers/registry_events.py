"""The device registry driven as `answering` does it: on_event once, is_complete until it says so."""

import hashlib
import json
from typing import Any

from edge_handlers.device_registry import is_complete, on_event
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_s3 import FakeS3

GROUP = "edgewright-dev"
LAB = "edgewright-lab"
ID = f"registry-{GROUP}"
SERVER = "edgewright-dev-edge-server"
DEVICES = {SERVER: "all", "line-1": "all"}
LIMIT = 20


class Registry:
    """Sends events; the list of devices lies in S3, as in a deploy."""

    def __init__(self, s3: FakeS3) -> None:
        self._s3 = s3
        self.polls = 0

    def create(self, devices: dict[str, str] = DEVICES, **changes: Any) -> dict[str, Any]:
        return self.run(event.create("device_registry", **self.listed(devices), **changes))

    def update(self, devices: dict[str, str] = DEVICES, old: dict[str, Any] | None = None, **changes: Any) -> Any:
        return self.run(event.update("device_registry", ID, old=old, **self.listed(devices), **changes))

    def delete(self, physical_id: str = ID, **changes: Any) -> dict[str, Any]:
        return self.run(event.delete("device_registry", physical_id, **changes))

    def listed(self, devices: dict[str, str]) -> dict[str, str]:
        """Put the list where the properties say."""
        content = json.dumps(devices).encode()
        sha256 = hashlib.sha256(content).hexdigest()
        self._s3.put("cdk-assets", sha256, content)
        return {"ListKey": sha256, "ListSha256": sha256}

    def run(self, request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """Answer one event; the result holds the physical id and the data."""
        answer = on_event(request, Context(seconds))
        for self.polls in range(1, LIMIT + 1):
            polled = is_complete(event.poll(request, answer), Context(seconds))
            if polled["IsComplete"]:
                return {**answer, **{key: value for key, value in polled.items() if key != "IsComplete"}}
        raise AssertionError(f"not complete after {LIMIT} polls")


def rings_of(group: str) -> str:
    """The property Rings of a registry of another stage."""
    return json.dumps({"canary": f"{group}-canary", "early": f"{group}-early", "all": group})
