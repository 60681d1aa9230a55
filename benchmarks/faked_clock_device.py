"""A core device whose components see the same faked clock as itself: `twin.core_device` under libfaketime."""

import sys
import threading
import time

from twin.core_device.__main__ import main
from twin.core_device.components import process

VARIABLES = ("LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC")


def sleep(seconds: float) -> None:
    """Sleep: libfaketime refuses the absolute deadlines of `time.sleep` when the monotonic clock is left alone."""
    threading.Event().wait(seconds)


if __name__ == "__main__":
    time.sleep = sleep  # type: ignore[assignment] # nobody passes an index
    # A device keeps its own environment from its components.
    process._INHERITED = (*process._INHERITED, *VARIABLES)
    sys.exit(main())
