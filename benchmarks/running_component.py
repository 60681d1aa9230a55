"""The inference component as a process beside a twin's IPC server, for what faults do to it."""

import contextlib
import os
import queue
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from benchmarks.waiting import drop_file, wait_for
from tests.edge.local_device import LocalDevice, configuration
from tests.edge.model_folder import ROOT, make_package, point

LIMIT_S = 60.0
AWAY = 1 << 40


class RunningComponent:
    """A device with one component; use it as a context manager.

    Args:
        folder: Of the run; `watched` in it is the watched folder.
        state: What outlives the component; the folder by default.
        environment: More variables for the component.
        service: Keys of the configuration besides the model's.
        model: Keys of the model's configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        state: Path | None = None,
        environment: Mapping[str, str] | None = None,
        service: Mapping[str, object] | None = None,
        **model: object,
    ) -> None:
        self.watched = folder / "watched"
        self.watched.mkdir(parents=True)
        self.state = state or folder
        self.log = folder / "component.log"
        self._folder = folder
        self._environment = dict(environment or {})
        config = configuration(WatchDirectory=str(self.watched), queueSize=10_000, **model)
        self.device = LocalDevice(folder / "ipc.sock", {**config, **(service or {})})
        point(folder / "work" / "edgewright.test.model.Digits" / "current", make_package(folder / "model"))

    def __enter__(self) -> "RunningComponent":
        self.device.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.device.__exit__()

    def start(self, *, wait: bool = True) -> None:
        """Start the process; by default it listens when this returns."""
        environment = {**os.environ, **self.device.environment(), **self._environment}
        environment["PYTHONPATH"] = str(ROOT / "edge_assets" / "inference")
        command = [sys.executable, "-m", "edge_inference", "--work-root", str(self._folder / "work")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state", str(self.state)], env=environment, stderr=log, cwd=self._folder
            )
        if wait:
            self.device.wait_for_subscription()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self.process.kill()
        self.process.wait(10)
        # The device forgets the dead one's subscriptions with its connection.
        wait_for(lambda: not any(self.device._topics.values()), "the end of the subscriptions")

    @property
    def rss_mb(self) -> float:
        """Memory of the process in RAM, MB."""
        return round(psutil.Process(self.process.pid).memory_info().rss / 1e6, 1)

    def spooled(self) -> int:
        """Answers on disk."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state}/spool.sqlite?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])

    def go_away(self) -> None:
        """Nothing can be published from now on."""
        self.device.refused_publishes = AWAY

    def come_back(self) -> None:
        """Everything can be published again."""
        self.device.refused_publishes = 0

    def ask(self, request_id: str) -> None:
        """Send a request."""
        self.device.send({"request_id": request_id, "index": 1})

    def drop_file(self, name: str) -> None:
        """Put a request into the watched folder, complete or not at all."""
        drop_file(self.watched, name)

    def answers(self, until: Callable[[list[str]], bool], limit_s: float = LIMIT_S) -> list[str]:
        """Take answers until there are enough, or none came for a while; gives their request ids."""
        found: list[str] = []
        deadline = time.monotonic() + limit_s
        while not until(found) and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                found.append(str(self.device.answer(0.2)["request_id"]))
        return found
