"""Ending the process while threads of native libraries are at work."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its exit code, whatever its threads are doing.

    Python's own ending takes the interpreter away from threads that run on. One that is loading a model comes back from
    C++ to find it gone, and aborts the process: a component that ended in good order would be reported as crashed. So
    nothing is finalised here; what must be kept is on disk before `main` returns.

    Args:
        main: Returns the exit code. An exception is logged, and is exit code 1; SystemExit goes its usual way, as
            that of a wrong command line, which comes before the first thread.
    """
    try:
        code = main()
    except Exception:
        log.exception("ended by an error")
        code = 1
    # A device that reads no more is no reason to stay.
    with contextlib.suppress(OSError, ValueError):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
