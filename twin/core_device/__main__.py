"""Run a core device: `python -m twin.core_device --config <root>/config.yaml`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import signal
import sys
from pathlib import Path

from .configuration import Configuration, load_configuration
from .errors import CoreDeviceError
from .files import Layout
from .processes import FAULTS, InstanceLock

_LOG_LIMIT_BYTES = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT.

    Returns:
        0 after a signal; 1 when the configuration is wrong or the root folder is taken.
    """
    parser = argparse.ArgumentParser(prog="python -m twin.core_device", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the device's config.yaml, as for nucleus lite")
    options = parser.parse_args(arguments)
    try:
        configuration = load_configuration(options.config)
        layout = Layout(configuration.system.root_path)
        lock = InstanceLock(layout.pid_file)
        lock.acquire()
    except CoreDeviceError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    try:
        _log_to(layout.device_log)
        asyncio.run(_run(configuration))
    finally:
        lock.release()
    return 0


async def _run(configuration: Configuration) -> None:
    from .device import CoreDevice

    device = CoreDevice(configuration)
    task = asyncio.create_task(device.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    losing: set[asyncio.Task[None]] = set()

    def lose(daemon: str) -> None:
        losing.add(asyncio.create_task(device.lose(daemon)))

    for daemon, fault in FAULTS.items():
        loop.add_signal_handler(fault, lose, daemon)
    try:
        await task
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopped")
    except BaseExceptionGroup:
        logging.getLogger(__name__).exception("the core device failed")
        raise


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_LIMIT_BYTES, backupCount=2)
    logging.basicConfig(
        level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
