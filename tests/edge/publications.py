"""Publications of tests: at once, or when told."""

import threading

from edge_component.ipc import IpcError


class Published:
    """Done already."""

    def wait(self, timeout_s: float) -> bool:
        return True


class Held:
    """On its way until it is let go; it fails if `failure` is set by then."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.failure: IpcError | None = None

    def wait(self, timeout_s: float) -> bool:
        done = self.done.wait(timeout_s)
        if done and self.failure is not None:
            raise self.failure
        return done
