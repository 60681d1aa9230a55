"""A copy of the app, deployed to a twin of its own by the CDK command line, for what is measured or broken on it."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).resolve().parents[1]
for folder in (".", "constructs"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.waiting import wait_for
from config.names import Names
from tests.app_copy import copy_app
from tests.device_processes import device_pid, inference_process
from tools.offline_deploy import OfflineDeploy
from twin import TwinError, lifecycle
from twin.core_device.components.component import ATTEMPTS
from twin.operator import OperatorClient
from twin.state import TwinState

NAMES = Names("twin")
REQUEST, RESPONSE = NAMES.request_topic("digits"), NAMES.response_topic("digits")
LIMIT_S = 180.0
#: What a fault may add to the component's memory.
RSS_GROWTH_MB = 10


class DeployedTwin:
    """A copy of the app and the twin that it is deployed to; use it as a context manager.

    Args:
        folder: Of the run.
        auth: Whether IAM policies are evaluated.
        extensions: Of the cloud, besides its own.
    """

    def __init__(self, folder: Path, *, auth: bool | None = None, extensions: Sequence[str] = ()) -> None:
        self.app = copy_app(folder / "app")
        bundles = ROOT / "edge_assets" / "handlers" / "bundles"
        if bundles.is_dir():
            (self.app / "edge_assets" / "handlers" / "bundles").symlink_to(bundles)
        self.home = folder / "twin"
        self._folder, self._auth, self._extensions = folder, auth, extensions
        self._failures = 0
        self.warm_mb = 0.0

    def __enter__(self) -> Self:
        try:
            self.state = self._start()
        except BaseException:
            lifecycle.stop(self.home)
            raise
        self.deploy = OfflineDeploy(environment=self.state.environment(), out=self._folder / "out", app=self.app)
        return self

    def __exit__(self, *_: object) -> None:
        lifecycle.stop(self.home)

    def bootstrap(self) -> None:
        """Prepare the account."""
        self.deploy.synth()
        self.deploy.bootstrap()

    def operator(self) -> OperatorClient:
        """A client of the fleet, to be connected by `with`."""
        return OperatorClient(self.state)

    @property
    def device(self) -> psutil.Process:
        """The core device.

        Raises:
            LookupError: There is none at the moment.
        """
        pid = device_pid(self.home)
        if pid is None or not psutil.pid_exists(pid):
            raise LookupError("no core device at the moment")
        return psutil.Process(pid)

    @property
    def component(self) -> psutil.Process:
        """The inference component, a child of the core device.

        Raises:
            LookupError: There is none at the moment.
        """
        return inference_process(self.home)

    @property
    def root(self) -> Path:
        """The core device's root folder."""
        (root,) = self.home.glob("instances/*")
        return root

    def rss_mb(self) -> dict[str, float]:
        """Memory in RAM of component and core device, MB."""
        return {
            name: round(process.memory_info().rss / 1e6, 1)
            for name, process in (("component", self.component), ("core device", self.device))
        }

    def grew(self, before: dict[str, float], after: dict[str, float]) -> bool:
        """Whether the component takes 10 MB more than before, and than one that has done all its kinds of work."""
        return after["component"] - max(before["component"], self.warm_mb) >= RSS_GROWTH_MB

    def kill_component(self) -> None:
        """SIGKILL; the core device first where this would be the failure for which it gives the component up."""
        if self._failures >= ATTEMPTS - 1:
            self.kill_device()
        process = wait_for_process(lambda: self.component)
        self._failures += 1
        process.kill()
        wait_for(lambda: not process.is_running(), "the component's end")

    def kill_device(self) -> None:
        """SIGKILL of the core device; the twin starts it again, and it its component."""
        process = wait_for_process(lambda: self.device)
        self._failures = 0
        process.kill()
        wait_for(lambda: not process.is_running(), "the core device's end")

    def kill_cloud(self) -> None:
        """SIGKILL of broker, S3 and all else of the cloud; the core device lives on."""
        time.sleep(3)  # the twin writes its state every second
        os.kill(self.state.pid, signal.SIGKILL)
        wait_for(lambda: not self.state.running, "the cloud's end")

    def start_cloud(self) -> None:
        """The cloud again, from its state; the core device connects by itself."""
        self.state = self._start()

    def wait_until_served(self, operator: OperatorClient) -> float:
        """Ask until there is an answer; what was sent while the component was away is not kept for it.

        Returns:
            How long it took, in seconds.

        Raises:
            TwinError: Nothing within 180 s.
        """
        started = time.monotonic()
        while True:
            request = {"request_id": f"probe-{time.monotonic_ns()}", "index": 1}
            try:
                operator.request(REQUEST, request, RESPONSE, timeout_s=2)
            except TwinError:
                if time.monotonic() - started > LIMIT_S:
                    raise
            else:
                return time.monotonic() - started

    def log(self, name: str = "core_device") -> str:
        """What the core device or a component has written."""
        return (self.root / "log" / f"{name}.log").read_text(errors="replace")

    def _start(self) -> TwinState:
        return lifecycle.start(self.home, auth=self._auth, extensions=self._extensions)


def wait_for_process(find: Callable[[], psutil.Process]) -> psutil.Process:
    """Wait for a process that is being started."""
    found: list[psutil.Process] = []

    def there() -> bool:
        with suppress(LookupError, psutil.NoSuchProcess):
            found.append(find())
        return bool(found)

    wait_for(there, "a process that is being started", LIMIT_S)
    return found[-1]


def remove(folder: Path) -> None:
    """Delete a run's folder."""
    shutil.rmtree(folder, ignore_errors=True)
