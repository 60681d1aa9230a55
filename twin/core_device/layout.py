"""Where a core device keeps its files; the folders are those of the nucleus."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

# sizeof(sockaddr_un.sun_path) on Linux, less the terminating zero (unix(7)).
_SOCKET_PATH_LIMIT_BYTES = 107


@dataclass(frozen=True)
class Layout:
    """The folders and files below the device's root.

    Args:
        root: `system.rootPath` of the configuration, absolute.
    """

    root: Path

    @property
    def pid_file(self) -> Path:
        """Who runs on this root: `{"pid", "started"}`, `started` in seconds since the epoch."""
        return self.root / "core_device.pid"

    @property
    def device_log(self) -> Path:
        """The device's own log."""
        return self.root / "log" / "core_device.log"

    @property
    def deployed_file(self) -> Path:
        """The set of components that the device runs, and which target wants which of them."""
        return self.root / "config" / "deployed.json"

    @property
    def configuration_file(self) -> Path:
        """The components' configurations with their timestamps."""
        return self.root / "config" / "configuration.json"

    @property
    def job_file(self) -> Path:
        """The last deployment job and how far it got."""
        return self.root / "config" / "job.json"

    @property
    def processes_file(self) -> Path:
        """The process groups of the running components."""
        return self.root / "config" / "processes.json"

    def component_log(self, component: str) -> Path:
        """What a component writes to its standard output and error."""
        return self.root / "log" / f"{component}.log"

    def work(self, component: str) -> Path:
        """A component's working directory."""
        return self.root / "work" / component

    def recipe(self, component: str, version: str) -> Path:
        """A component version's recipe."""
        return self.root / "packages" / "recipes" / f"{component}-{version}.json"

    def artifacts(self, component: str, version: str) -> Path:
        """A component version's artifacts as they came."""
        return self.root / "packages" / "artifacts" / component / version

    def unarchived(self, component: str, version: str) -> Path:
        """A component version's archives, each unpacked in a folder named after it."""
        return self.root / "packages" / "artifacts-unarchived" / component / version

    def ipc_socket(self) -> Path:
        """The IPC socket: in the root, or in a private temporary folder when that path is too long for the kernel."""
        path = self.root / "gg-ipc.socket"
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"edgewright-{os.getuid()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} must be a folder of this user: remove it, or choose a shorter rootPath")
        return folder / "gg-ipc.socket"
