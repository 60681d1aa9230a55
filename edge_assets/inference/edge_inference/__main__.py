"""Starts the inference component: python -m edge_inference --runtime-pointer FILE."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_component import process
from edge_component.connected_service import run_process
from edge_component.outbox import Outbox, Spool
from edge_component.process import EnvironmentPointer
from edge_inference.captures import CaptureFolder, CaptureQueue, CaptureUpload, ObjectStore
from edge_inference.endpoint import Endpoint
from edge_inference.heartbeat import Heartbeat, resident_mb
from edge_inference.models.integrity import SigningKeys
from edge_inference.models.package import ModelPackageError
from edge_inference.models.runtime import Running
from edge_inference.models.store import ModelStore, Served, Workload, load_workload
from edge_inference.service import AgentSwitch, InferenceService, Router
from edge_inference.settings import ModelSettings, ServiceSettings, parse_service

log = logging.getLogger("edge_inference")

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the objects and serve.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 stopped by a signal, 1 with the reason in the log.
    """
    options = _options(arguments)
    logging.basicConfig(
        level=options.log_level, format="%(asctime)s %(levelname)s %(threadName)s: %(message)s", stream=sys.stderr
    )
    device = os.environ.get("AWS_IOT_THING_NAME")
    if not device:
        log.error("AWS_IOT_THING_NAME must name the device, got nothing: start this as a Greengrass component")
        return 1
    # The SDK takes a while to import; a wrong command line should not wait for it.
    from edge_component import greengrass_ipc
    from edge_inference.models import runtime

    # While the connection is made; what is wrong with it is told with the first model.
    threading.Thread(target=runtime.prepare, name="import", daemon=True).start()

    # A component is started in its own work folder.
    own = Path.cwd() if options.state is None else options.state
    outbox = Outbox(spool=Spool(own / "spool.sqlite"))
    # In memory: who asks on this device is gone when the device is.
    local = Outbox()
    folder = CaptureFolder(own / "captures")
    captures = CaptureQueue(folder, device)
    upload = CaptureUpload(captures, folder, open_s3, device)
    keys = SigningKeys()
    heartbeat = Heartbeat(device, outbox, upload.counts, local=local, unheard=lambda: service.unheard)
    for name, work in (("captures", captures.run), ("upload", upload.run)):
        threading.Thread(target=work, name=name, daemon=True).start()

    def load_model(served: Served, folder: Path, running: Running) -> Workload:
        process.freeze()
        try:
            model = load_workload(folder, partial(runtime.load, running=running), keys.current, served)
        except ModelPackageError as exc:
            if running.accelerator == runtime.CPU:
                raise
            # What an accelerator cannot run, once it is tried, the processor may.
            running = replace(running, refused=str(exc)[: runtime.REASON_CHARACTERS])
            model = load_workload(folder, partial(runtime.load, running=running), keys.current, served)
        process.trim()
        process.release_code()
        return model

    def make_endpoint(settings: ModelSettings) -> Endpoint:
        pointer = options.work_root / settings.component / "current"
        store = ModelStore(
            pointer,
            partial(load_model, Served(settings.name, settings.component)),
            copies=own / "models" / settings.component,
            resident_mb=resident_mb,
        )
        endpoint = Endpoint(settings, device, store, outbox, captures, lambda: service.look(), local)
        endpoint.start()
        return endpoint

    def apply_service(settings: ServiceSettings) -> None:
        heartbeat.settings = captures.settings = upload.settings = settings

    def check_service(configuration: object) -> Callable[[], None]:
        return partial(apply_service, parse_service(configuration))

    environment = EnvironmentPointer(options.runtime_pointer)
    router = Router(make_endpoint)
    agent = AgentSwitch(lambda: router.endpoints, keys, captures.keep)
    settings = greengrass_ipc.SharedSettings.beside(options.runtime_pointer, options.component)
    service = InferenceService(
        greengrass_ipc.Connector(partial(greengrass_ipc.connect, settings=settings)),
        router,
        outbox,
        local=local,
        checks=[keys.check, agent.check, check_service],
        is_outdated=environment.is_outdated,
        on_watch=heartbeat.beat,
        may_end=process.EndBudget(own / "ends").spend,
    )
    return run_process(service, environment.restart, agent.stop)


def open_s3() -> ObjectStore:
    """Import what writes to S3: a twentieth of the process's memory, and few devices capture."""
    try:
        from edge_inference.s3_objects import S3Objects
    except ImportError as exc:
        # Told by the heartbeat as any other reason, and tried again.
        raise OSError(f"this device's Python cannot write to S3: {exc}") from exc
    return S3Objects()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edge_inference", description=(__doc__ or "").split(":")[0])
    work_help = "folder with the work folders of all components (default: two above the runtime pointer)"
    parser.add_argument("--work-root", type=Path, help=work_help)
    parser.add_argument("--runtime-pointer", type=Path, help="file that names the environment to run in")
    component_help = "name of this component, whose settings the runtime component's configuration has (default: none)"
    parser.add_argument("--component", help=component_help)
    parser.add_argument("--state", type=Path, help="folder of what outlives the process (default: the working folder)")
    parser.add_argument("--log-level", choices=LEVELS, default="INFO", help="least severe messages (default: INFO)")
    options = parser.parse_args(arguments)
    if options.work_root is None:
        if options.runtime_pointer is None:
            parser.error("--work-root or --runtime-pointer must be given")
        options.work_root = options.runtime_pointer.parents[1]
    return options


if __name__ == "__main__":
    process.run(main)
