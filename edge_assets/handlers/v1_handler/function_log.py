"""Where a function's prints and logging go: the component's log."""

import io
import logging
import sys
from typing import Any


def prepare_output() -> None:
    """Let text of any kind be printed, and logging go where print goes, unless the function sets it up itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    default = logging.StreamHandler(sys.stdout)
    default.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(default)
    logging.root.setLevel(logging.INFO)
    original = logging.basicConfig

    def basic_config(**options: Any) -> None:
        # It does nothing where there is a handler already: with ours, a function's own level and format would be lost.
        if logging.root.handlers == [default]:
            logging.root.removeHandler(default)
        original(**options)

    logging.basicConfig = basic_config
