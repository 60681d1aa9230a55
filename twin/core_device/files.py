"""Where a core device keeps its files, and how they survive a kill at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# sizeof(sockaddr_un.sun_path) on Linux, less the terminating zero (unix(7)).
_SOCKET_PATH_LIMIT_BYTES = 107


log = logging.getLogger(__name__)


class Documents(Protocol):
    """JSON documents by path, such as a recipe or the state of a job."""

    def read(self, path: Path) -> Any:
        """The content, or None where there is none."""

    def write(self, path: Path, value: Any) -> None:
        """Replace the content in one step."""

    def below(self, folder: Path) -> list[Path]:
        """The documents in a folder."""

    def remove(self, path: Path) -> None:
        """Forget a document; one that is not there is fine."""


class JsonFiles:
    """Documents as files, each replaced at once: a reader, or a restart, sees the old text or the new one."""

    def read(self, path: Path) -> Any:
        """The file's content, or None when there is no file; an unreadable one is set aside as `<name>.damaged`."""
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as exc:
            damaged = path.with_name(path.name + ".damaged")
            log.error("%s is not JSON (%s): it is kept as %s and the device starts without it", path, exc, damaged.name)
            path.replace(damaged)
            return None

    def write(self, path: Path, value: Any) -> None:
        """Replace the file's content; it is on the disk after this."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        with temporary.open("w") as stream:
            json.dump(value, stream, separators=(",", ":"))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)

    def below(self, folder: Path) -> list[Path]:
        """The files in a folder."""
        return list(folder.glob("*.json"))

    def remove(self, path: Path) -> None:
        """Delete the file."""
        path.unlink(missing_ok=True)


JSON_FILES = JsonFiles()


@dataclass(frozen=True)
class Layout:
    """The folders and files below the device's root.

    Args:
        root: `system.rootPath` of the configuration, absolute.
        documents: Where the JSON files below it are.
    """

    root: Path
    documents: Documents = JSON_FILES

    @property
    def pid_file(self) -> Path:
        """Who runs on this root: `{"pid", "started"}`, `started` in seconds since the machine's start."""
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
    def spool_file(self) -> Path:
        """Components' messages that the cloud has not acknowledged."""
        return self.root / "spool.sqlite"

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
        path = self.root / _SOCKET
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT_BYTES:
            return path
        folder = _TEMPORARY / f"{_prefix()}{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise PermissionError(f"{folder} must be a folder of this user: remove it, or choose a shorter rootPath")
        (folder / _ROOT).write_bytes(os.fsencode(self.root))
        return folder / _SOCKET

    def remove_ipc_socket(self) -> None:
        """Leave nothing of the IPC behind; its folder goes, too, where it is a temporary one."""
        (self.root / _SOCKET).unlink(missing_ok=True)
        for folder in socket_folders(self.root):
            shutil.rmtree(folder, ignore_errors=True)


_SOCKET, _ROOT = "gg-ipc.socket", "root"
#: Not TMPDIR: that may be as long as the root, and who looks for the folder may have another one.
_TEMPORARY = Path("/tmp")  # noqa: S108 - private folders, checked


def _prefix() -> str:
    return f"edgewright-{os.getuid()}-"


def socket_folders(folder: Path) -> list[Path]:
    """Temporary folders with the IPC socket of a device whose root is this folder, or lies below it."""
    found = []
    for marker in _TEMPORARY.glob(f"{_prefix()}*/{_ROOT}"):
        with contextlib.suppress(OSError):
            if Path(os.fsdecode(marker.read_bytes())).is_relative_to(folder):
                found.append(marker.parent)
    return found
