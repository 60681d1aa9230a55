"""Publications of tests: at once, or when told; and pauses that are counted instead of waited for."""

import threading

from edge_component.ipc import IpcError


class Published:
    """Done already."""

    def wait(self, timeout_s: float) -> bool:
        return True


class Pauses:
    """In place of a `BackOff`: counts the pauses since the last success."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._step = 0

    def pause_s(self) -> float:
        self._step += 1
        self.asked.append(self._step)
        return 0.001

    def reset(self) -> None:
        self._step = 0


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
