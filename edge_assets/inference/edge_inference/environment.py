"""The Python environment that the process runs in, which the runtime component may replace."""

import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)


class EnvironmentPointer:
    """Follows the pointer file of the runtime component.

    Args:
        pointer: The file; None when nothing is to be followed.
        prefix: Root of the environment of this process.
    """

    def __init__(self, pointer: Path | None, prefix: Path = Path(sys.prefix)) -> None:
        self._pointer = pointer
        self._prefix = prefix

    def is_outdated(self) -> bool:
        """Tell whether the pointer names another environment, and a usable one.

        Returns:
            False when the pointer cannot be read: it may just be on its way.
        """
        target = self._target()
        if target is None or not os.access(target / "bin" / "python", os.X_OK):
            return False
        try:
            return not target.samefile(self._prefix)
        except OSError:
            # The environment of this process is gone; the new one is there.
            return True

    def restart(self) -> NoReturn:
        """Start the same command in the environment that the pointer names; the process keeps its id and its token.

        Raises:
            OSError: The new interpreter does not start.
        """
        target = self._target() or self._prefix
        python = str(target / "bin" / "python")
        log.info("starting anew in %s", target)
        os.execv(python, [python, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted

    def _target(self) -> Path | None:
        if self._pointer is None:
            return None
        try:
            content = self._pointer.read_text(errors="replace").strip()
        except OSError:
            return None
        return Path(content) if content else None
