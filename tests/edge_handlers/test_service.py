"""The service around a V1 function: an event that comes while it ends."""

from typing import Any

from edge_component.outbox import Outbox
from v1_handler.service import HandlerService


class Leaving:
    """A dispatcher that the service lets go of just after it was looked at."""

    def __init__(self, service: HandlerService) -> None:
        self._service = service
        self.events: list[tuple[str, bytes]] = []

    def __bool__(self) -> bool:
        self._service._dispatcher = None
        return True

    def submit(self, topic: str, payload: bytes) -> None:
        self.events.append((topic, payload))


def test_an_event_that_comes_while_the_service_ends_meets_what_was_looked_at() -> None:
    nothing: Any = None
    service = HandlerService(nothing, Outbox(), nothing)
    leaving: Any = Leaving(service)
    service._dispatcher = leaving

    service._submit("topic", b"event")
    service._submit("topic", b"after the end")

    assert leaving.events == [("topic", b"event")]
