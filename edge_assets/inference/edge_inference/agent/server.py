"""The agent's gRPC server on a Unix socket."""

import logging
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from edge_inference.agent.agent_error import AgentError
from edge_inference.agent.capture_folder import CaptureFolder
from edge_inference.agent.captures import Captures, UploadOrFolder
from edge_inference.agent.model_registry import ModelRegistry
from edge_inference.agent.servicer import Servicer
from edge_inference.agent.tensor_model import TensorModel, load
from edge_inference.agent_settings import AgentSettings
from edge_inference.agent_switch import Upload
from edge_inference.endpoint import Endpoint
from edge_inference.signature import SigningKeys

log = logging.getLogger(__name__)

#: One for a prediction, the others for calls that do not compute.
THREADS = 3
SOCKET_MODE = 0o660
STOP_LIMIT_S = 3.0
MESSAGE_OVERHEAD_BYTES = 64 * 1024


class AgentServerError(Exception):
    """The server cannot listen."""


class AgentServer:
    """Serves one socket until it is stopped.

    Args:
        settings: Where and how much.
        endpoints: The endpoints that the device serves now.
        keys: The signing key in force.
        upload: Takes captures where they are uploaded.

    Raises:
        AgentServerError: The socket's path is taken by something else, or cannot be listened on.
    """

    def __init__(
        self, settings: AgentSettings, endpoints: Callable[[], list[Endpoint]], keys: SigningKeys, upload: Upload
    ) -> None:
        refused: set[Path] = set()
        registry = ModelRegistry(
            partial(_served, endpoints, refused), lambda folder: load(folder, keys.current), settings.max_models
        )
        self._captures = Captures(
            UploadOrFolder(upload, CaptureFolder(Path(settings.capture_folder), settings.capture_bytes)),
            settings.pending_captures,
            settings.max_tensor_bytes,
        )
        message_bytes = settings.max_tensor_bytes + MESSAGE_OVERHEAD_BYTES
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="agent"),
            handlers=[Servicer(registry, self._captures, settings.max_tensor_bytes).handler()],
            options=[
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", message_bytes),
            ],
        )
        socket = Path(settings.socket)
        _clear(socket)
        try:
            self._server.add_insecure_port(f"unix:{socket}")
            # Whoever may write to the socket may use the models: this user and its group.
            socket.chmod(SOCKET_MODE)
        except (RuntimeError, OSError) as exc:
            self._captures.close(0)
            raise AgentServerError(f"agent.socket {socket} cannot be listened on: {exc}") from exc
        self._socket = socket
        self._server.start()
        log.info("agent: serving on %s", socket)

    def stop(self) -> None:
        """Let the calls that run end, within 3 s, and leave no socket behind."""
        self._server.stop(STOP_LIMIT_S).wait(STOP_LIMIT_S)
        self._captures.close(STOP_LIMIT_S)
        self._socket.unlink(missing_ok=True)
        log.info("agent: stopped")


def _clear(socket: Path) -> None:
    try:
        mode = socket.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise AgentServerError(f"agent.socket must not be a file that is there already, got {socket}")
    socket.unlink()


def _served(endpoints: Callable[[], list[Endpoint]], refused: set[Path]) -> Mapping[str, TensorModel]:
    """The models of the device that the protocol can carry; of each other one, one line goes into the log."""
    models: dict[str, TensorModel] = {}
    for endpoint in endpoints():
        classifier = endpoint.store.model
        # Other runtimes than ONNX Runtime have no session to share.
        session: Any = getattr(classifier.runtime, "session", None) if classifier else None
        if classifier is None or session is None:
            continue
        try:
            models[endpoint.settings.name] = TensorModel.of_session(classifier.package.folder.resolve(), session)
        except AgentError as exc:
            if classifier.package.folder in refused:
                continue
            refused.add(classifier.package.folder)
            log.warning("model %s is not for the agent's clients: %s", endpoint.settings.name, exc)
    return models
