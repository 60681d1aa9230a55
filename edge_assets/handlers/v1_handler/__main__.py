"""Starts the handler component: python -m v1_handler --dependencies FOLDER."""

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edge_component import process
from edge_component.connected_service import run_process
from edge_component.outbox import Outbox
from edge_component.process import EnvironmentPointer
from v1_handler.dispatcher import Dispatcher, Folders
from v1_handler.service import HandlerService, SizedOutbox
from v1_handler.settings import HandlerSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the objects and serve.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 stopped by a signal, 1 with the reason in the log.
    """
    parser = argparse.ArgumentParser(prog="python -m v1_handler", description=(__doc__ or "").split(":")[0])
    here = Path(__file__).resolve().parents[1]
    function_help = "folder with the function's files (default: function, beside this package)"
    parser.add_argument("--function", type=Path, default=here / "function", help=function_help)
    parser.add_argument("--dependencies", type=Path, required=True, help="folder with the packages bundled for it")
    parser.add_argument("--version", default="1", help="of the component, for the function's context")
    parser.add_argument("--runtime-pointer", type=Path, help="file that names the environment to run in")
    component_help = "name of this component, whose settings the runtime component's configuration has (default: none)"
    parser.add_argument("--component", help=component_help)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s: %(message)s", stream=sys.stderr
    )
    # The SDK takes a while to import; a wrong command line should not wait for it.
    from edge_component import greengrass_ipc

    folders = Folders(options.function.resolve(), options.dependencies.resolve(), here / "shim", here, options.version)
    outbox, local = SizedOutbox(), Outbox()

    def make_dispatcher(settings: HandlerSettings) -> Dispatcher:
        return Dispatcher(settings, folders, service.publish)

    environment = EnvironmentPointer(options.runtime_pointer)
    settings = greengrass_ipc.SharedSettings.beside(options.runtime_pointer, options.component)
    connect = greengrass_ipc.Connector(partial(greengrass_ipc.connect, settings=settings))
    # A component is started in its own work folder.
    may_end = process.EndBudget(Path.cwd() / "ends").spend
    service = HandlerService(
        connect, outbox, make_dispatcher, local=local, is_outdated=environment.is_outdated, may_end=may_end
    )
    return run_process(service, environment.restart)


if __name__ == "__main__":
    process.run(main)
