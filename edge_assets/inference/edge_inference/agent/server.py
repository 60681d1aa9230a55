"""The agent's gRPC server on a Unix socket, and the verbs of its service."""

import logging
import stat
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_inference.agent import AgentError, Status, tensors
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.captures import ClientCaptures
from edge_inference.agent.models import ModelRegistry, TensorModel, load
from edge_inference.captures import Keep
from edge_inference.endpoint import Endpoint
from edge_inference.models.signature import SigningKeys
from edge_inference.settings import AgentSettings

log = logging.getLogger(__name__)
SERVICE = "AWS.SageMaker.Edge.Agent"
#: One for a prediction, the others for calls that do not compute.
THREADS = 3
SOCKET_MODE = 0o660
STOP_LIMIT_S = 3.0
MESSAGE_OVERHEAD_BYTES = 64 * 1024


class Servicer:
    """Answers calls; an error becomes the status that the agent documents for it.

    Args:
        registry: The models.
        captures: The captures.
        limit_bytes: The largest tensor.
    """

    def __init__(self, registry: ModelRegistry, captures: ClientCaptures, limit_bytes: int) -> None:
        self._registry = registry
        self._captures = captures
        self._limit_bytes = limit_bytes
        # As in the agent: predictions one at a time, or their memory would add up.
        self._predicting = threading.Lock()

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to dispatch to this."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "LoadModel": _unary(self._load_model, wire.LoadModelRequest),
                "UnLoadModel": _unary(self._unload_model, wire.UnLoadModelRequest),
                "ListModels": _unary(self._list_models, wire.ListModelsRequest),
                "DescribeModel": _unary(self._describe_model, wire.DescribeModelRequest),
                "Predict": _unary(self._predict, wire.PredictRequest),
                "CaptureData": _unary(self._capture_data, wire.CaptureDataRequest),
                "GetCaptureDataStatus": _unary(self._capture_status, wire.GetCaptureDataStatusRequest),
            },
        )

    def _load_model(self, request: Any) -> Any:
        model = self._registry.load(request.url, request.name)
        log.info("model %s loaded from %s for a client", request.name, model.folder)
        return wire.LoadModelResponse(model=_described(request.name, model))

    def _unload_model(self, request: Any) -> Any:
        self._registry.unload(request.name)
        log.info("model %s unloaded for a client", request.name)
        return wire.UnLoadModelResponse()

    def _list_models(self, _request: Any) -> Any:
        models = sorted(self._registry.models().items())
        return wire.ListModelsResponse(models=[_described(name, model) for name, model in models])

    def _describe_model(self, request: Any) -> Any:
        return wire.DescribeModelResponse(model=_described(request.name, self._registry.model(request.name)))

    def _predict(self, request: Any) -> Any:
        model = self._registry.model(request.name)
        values = tensors.decode(request.tensors, model.inputs, self._limit_bytes)
        with self._predicting:
            outputs = model.run(values)
        return wire.PredictResponse(
            tensors=[tensors.encode(spec, output) for spec, output in zip(model.outputs, outputs, strict=True)]
        )

    def _capture_data(self, request: Any) -> Any:
        self._captures.accept(request)
        return wire.CaptureDataResponse()

    def _capture_status(self, request: Any) -> Any:
        return wire.GetCaptureDataStatusResponse(status=self._captures.outcome(request.capture_id))


def _described(name: str, model: TensorModel) -> Any:
    return wire.Model(
        url=str(model.folder),
        name=name,
        input_tensor_metadatas=[tensors.metadata(spec) for spec in model.inputs],
        output_tensor_metadatas=[tensors.metadata(spec) for spec in model.outputs],
    )


def _unary(verb: Callable[[Any], Any], request_type: Any) -> Any:
    def answer(sent: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return verb(_parsed(sent, request_type))
        except AgentError as exc:
            status, message = exc.status, str(exc)
            log.info("%s refused: %s: %s", request_type.DESCRIPTOR.name, status.name, message)
        except Exception as exc:
            # Whatever one call does, the next ones are answered.
            status, message = Status.INTERNAL, f"{type(exc).__name__}: {exc}"
            log.exception("%s failed", request_type.DESCRIPTOR.name)
        return context.abort(status, message)  # raises

    return grpc.unary_unary_rpc_method_handler(
        answer,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _parsed(message: bytes, request_type: Any) -> Any:
    try:
        return request_type.FromString(message)
    except DecodeError as exc:
        name = request_type.DESCRIPTOR.name
        raise AgentError(Status.INVALID_ARGUMENT, f"a {name} must be one, with its texts in UTF-8: {exc}") from exc


class AgentServerError(Exception):
    """The server cannot listen."""


class AgentServer:
    """Serves one socket until it is stopped.

    Args:
        settings: Where and how much.
        endpoints: The endpoints that the device serves now.
        keys: The signing key in force.
        keep: Takes the captures of clients.

    Raises:
        AgentServerError: The socket's path is taken by something else, or cannot be listened on.
    """

    def __init__(
        self, settings: AgentSettings, endpoints: Callable[[], list[Endpoint]], keys: SigningKeys, keep: Keep
    ) -> None:
        refused: set[Path] = set()
        registry = ModelRegistry(
            partial(_served, endpoints, refused), lambda folder: load(folder, keys.current), settings.max_models
        )
        self._captures = ClientCaptures(keep, settings.pending_captures, settings.max_tensor_bytes)
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
