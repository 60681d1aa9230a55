"""The agent's gRPC server on a Unix socket, and the verbs of its service.

CaptureData is taken at once, written with the device's own captures, and its outcome asked for later.
"""

import base64
import logging
import re
import stat
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edge_inference.agent import AgentError, Status, tensors
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.models import ModelRegistry, TensorModel, load
from edge_inference.agent.tensors import content, written_shape
from edge_inference.captures import Keep
from edge_inference.endpoint import Endpoint
from edge_inference.models.integrity import SigningKeys
from edge_inference.settings import AgentSettings

log = logging.getLogger(__name__)

#: Outcomes that are remembered; the oldest are forgotten.
REMEMBERED = 10_000
#: Clients and agent share a clock; what they do not share is its rounding.
CLOCK_TOLERANCE_S = 1.0
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")


class ClientCaptures:
    """Accepts captures and remembers what became of them; safe for any thread.

    Args:
        keep: Takes them to the device's own captures.
        pending: Captures that may wait for the disk.
        limit_bytes: The largest tensor or auxiliary data.
        clock: Seconds since the epoch.
    """

    def __init__(self, keep: Keep, pending: int, limit_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._keep = keep
        self._pending = pending
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._outcomes: OrderedDict[str, int] = OrderedDict()
        self._waiting = 0

    def accept(self, request: Any) -> None:
        """Take a capture.

        Args:
            request: A CaptureDataRequest.

        Raises:
            AgentError: INVALID_ARGUMENT: the capture's id is no UUID, the model's name is none, or the data cannot be
                read; OUT_OF_RANGE: its time is in the future; ALREADY_EXISTS; RESOURCE_EXHAUSTED: too many wait.
        """
        capture_id = _uuid(request.capture_id)
        model = request.model_name
        if not FOLDER_NAME.fullmatch(model):
            raise AgentError(Status.INVALID_ARGUMENT, f"model_name must be a model's name, got {model[:100]!r}")
        moment = self._moment(request)
        record = _record(request, capture_id, moment, self._limit_bytes)
        with self._changed:
            if capture_id in self._outcomes:
                raise AgentError(Status.ALREADY_EXISTS, f"capture {capture_id} was initiated before")
            if self._waiting >= self._pending:
                raise AgentError(
                    Status.RESOURCE_EXHAUSTED, f"{self._pending} captures wait already: send it again later"
                )
            self._waiting += 1
            self._outcomes[capture_id] = wire.IN_PROGRESS
            while len(self._outcomes) > REMEMBERED:
                self._outcomes.popitem(last=False)
        self._keep(model, capture_id, moment, record, partial(self._told, capture_id))

    def outcome(self, capture_id: str) -> int:
        """Say what became of a capture.

        Returns:
            A CaptureDataStatus.

        Raises:
            AgentError: INVALID_ARGUMENT: the id is no UUID; NOT_FOUND.
        """
        known = _uuid(capture_id)
        with self._changed:
            if known not in self._outcomes:
                raise AgentError(Status.NOT_FOUND, f"capture {known} is not known")
            return self._outcomes[known]

    def close(self, timeout_s: float) -> None:
        """Wait until what was accepted is written.

        Args:
            timeout_s: How long at most.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._waiting, timeout_s):
                log.error("%d captures are lost: they could not be written in %.0f s", self._waiting, timeout_s)

    def _told(self, capture_id: str, problem: Exception | None) -> None:
        with self._changed:
            self._waiting -= 1
            if capture_id in self._outcomes:
                self._outcomes[capture_id] = wire.FAILURE if problem else wire.SUCCESS
            self._changed.notify_all()

    def _moment(self, request: Any) -> datetime:
        now = self._clock()
        if not request.HasField("inference_timestamp"):
            return datetime.fromtimestamp(now, UTC)
        stamp = request.inference_timestamp
        seconds = stamp.seconds + stamp.nanos / 1e9
        if seconds > now + CLOCK_TOLERANCE_S:
            raise AgentError(Status.OUT_OF_RANGE, f"inference_timestamp must not be in the future, got {seconds:.3f}")
        try:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
        except OverflowError as exc:
            raise AgentError(Status.OUT_OF_RANGE, f"inference_timestamp must be a date, got {seconds}") from exc


def _record(request: Any, capture_id: str, moment: datetime, limit_bytes: int) -> dict[str, Any]:
    def tensors(items: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": item.tensor_metadata.name,
                "type": _name(wire.DataType, item.tensor_metadata.data_type),
                "shape": written_shape(item.tensor_metadata, len(data)),
                "base64": _text(data),
            }
            for item, data in ((item, content(item, limit_bytes)) for item in items)
        ]

    def auxiliary(items: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": item.name,
                "encoding": _name(wire.Encoding, item.encoding),
                "base64": _text(content(item, limit_bytes)),
            }
            for item in items
        ]

    return {
        "captureId": capture_id,
        "model": request.model_name,
        "inferenceTimestamp": moment.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "inputTensors": tensors(request.input_tensors),
        "outputTensors": tensors(request.output_tensors),
        "inputs": auxiliary(request.inputs),
        "outputs": auxiliary(request.outputs),
    }


def _name(enumeration: Any, number: int) -> str:
    # proto3 lets any number through.
    return str(enumeration.Name(number)) if number in enumeration.values() else str(number)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError as exc:
        raise AgentError(Status.INVALID_ARGUMENT, f"capture_id must be a UUID, got {text[:100]!r}") from exc


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
