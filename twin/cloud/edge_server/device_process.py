"""The process of one core device: start, find again, watch, start again when it ends, end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from config.places import IMPORTS
from twin.clock import CLOCK_VARIABLE
from twin.devices.identity import CONFIG_FILE
from twin.files import PRIVATE_UMASK, private_opener
from twin.process import (
    ALLOCATOR,
    COMPONENT_VARIABLE,
    DEVICE_VARIABLE,
    INTERPRETER_VARIABLES,
    ProcessIdentity,
    end_edge_processes,
    processes_where,
)

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 30.0
STABLE_S = 15.0
"""A device that ran this long starts again after the first delay when it ends: one that cannot run ends sooner."""

_INHERITED = ("LANG", "LC_ALL", "TZ", *INTERPRETER_VARIABLES)


class DeviceProcess:
    """`python -m twin.core_device` on a root folder, in a session of its own, so that it outlives the cloud.

    Args:
        root: The folder.
        module: Another program instead, such as the simulated fleet's.
        config: Its configuration in the folder.
    """

    def __init__(self, root: Path, module: str = "twin.core_device", config: str = CONFIG_FILE) -> None:
        self._root, self._module, self._config = root, module, config
        self._child: subprocess.Popen[bytes] | None = None
        self._identity: ProcessIdentity | None = None

    @property
    def pid(self) -> int | None:
        """Of the live device, or None."""
        return self._identity.pid if self.alive and self._identity else None

    @property
    def alive(self) -> bool:
        """Whether the device runs."""
        if self._child is not None and self._child.poll() is not None:
            return False
        return self._identity is not None and self._identity.process() is not None

    @property
    def ending(self) -> str:
        """How a device that has ended did, as far as it is known."""
        code = self._child.poll() if self._child is not None else None
        if code is None:
            return "ended"
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def adopt(self) -> bool:
        """Take over a device that an earlier cloud process started.

        Returns:
            Whether there is one.
        """
        found = processes_where(
            lambda environment: (
                environment.get(DEVICE_VARIABLE) == str(self._root) and COMPONENT_VARIABLE not in environment
            )
        )
        if not found:
            return False
        oldest = min(found, key=psutil.Process.create_time)
        try:
            self._child, self._identity = None, ProcessIdentity.of(oldest.pid)
        except psutil.NoSuchProcess:
            return False
        return True

    def start(self) -> None:
        """Start the device, its output at the end of `log/core_device.log`.

        Raises:
            OSError: If it cannot be started.
        """
        (self._root / "log").mkdir(parents=True, exist_ok=True)
        with open(self._root / "log" / "core_device.log", "ab", opener=private_opener) as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", self._module, "--config", str(self._root / self._config)],
                cwd=self._root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=PRIVATE_UMASK,
            )
        try:
            self._identity = ProcessIdentity.of(self._child.pid)
        except psutil.NoSuchProcess:
            self._identity = ProcessIdentity(self._child.pid, -1.0)

    def end(self) -> None:
        """End the device and its components; blocks for up to 20 s."""
        end_edge_processes(self._root)
        if self._child is not None:
            self._child.poll()

    def _environment(self) -> dict[str, str]:
        """Nothing of the cloud's: a device knows AWS by its configuration only."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # The interpreter of this machine before others, as an edge server has exactly one.
        path = os.pathsep.join([f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"])
        return {
            **inherited,
            **ALLOCATOR,
            **{name: os.environ[name] for name in (CLOCK_VARIABLE,) if name in os.environ},
            "PATH": path,
            "HOME": str(self._root),
            "PYTHONPATH": str(IMPORTS),
            "PYTHONUNBUFFERED": "1",
            DEVICE_VARIABLE: str(self._root),
        }


class KeptDevice:
    """A device that is started again when it ends; the wait doubles with each early end."""

    def __init__(self, process: DeviceProcess) -> None:
        self.process = process
        self._runs_since: float | None = None
        self._due_at = 0.0
        self._delay_s = FIRST_DELAY_S

    def adopt(self) -> bool:
        """Take over a device that an earlier cloud process started; whether there is one."""
        if self.process.adopt():
            self._runs_since = time.monotonic()
        return self._runs_since is not None

    def look(self) -> tuple[str, str] | None:
        """Start the device if it is due; to be asked again and again.

        Returns:
            What has happened, as phase (`running` or `restarting`) and event; None for nothing new.
        """
        now = time.monotonic()
        if self.process.alive:
            return None
        if self._runs_since is not None:
            self._delay_s = FIRST_DELAY_S if now - self._runs_since > STABLE_S else self._delay_s
            self._runs_since = None
            return self._later(now, f"core device {self.process.ending}")
        if now < self._due_at:
            return None
        try:
            self.process.start()
        except OSError as exc:  # a full disk, say: it is tried again
            return self._later(now, f"core device cannot be started: {exc}")
        self._runs_since = now
        return "running", "core device started"

    def _later(self, now: float, why: str) -> tuple[str, str]:
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, LONGEST_DELAY_S)
        self._due_at = now + delay_s
        return "restarting", f"{why}; next start in {delay_s:.1f} s"
