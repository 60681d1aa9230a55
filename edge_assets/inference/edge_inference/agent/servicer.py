"""The verbs of the agent's service."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import grpc

from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent import tensors
from edge_inference.agent.agent_error import AgentError
from edge_inference.agent.captures import Captures
from edge_inference.agent.model_registry import ModelRegistry
from edge_inference.agent.tensor_model import TensorModel

log = logging.getLogger(__name__)
SERVICE = "AWS.SageMaker.Edge.Agent"


class Servicer:
    """Answers calls; an error becomes the status that the agent documents for it.

    Args:
        registry: The models.
        captures: The captures.
        limit_bytes: The largest tensor.
    """

    def __init__(self, registry: ModelRegistry, captures: Captures, limit_bytes: int) -> None:
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
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return verb(request)
        except AgentError as exc:
            status, message = grpc.StatusCode[exc.status.value], str(exc)
            log.info("%s refused: %s: %s", request_type.DESCRIPTOR.name, exc.status.value, message)
        except Exception as exc:
            # Whatever one call does, the next ones are answered.
            status, message = grpc.StatusCode.INTERNAL, f"{type(exc).__name__}: {exc}"
            log.exception("%s failed", request_type.DESCRIPTOR.name)
        return context.abort(status, message)  # raises

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
