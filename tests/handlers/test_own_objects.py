"""One function serves all models of a stage: a request reaches the objects and jobs of its own model only."""

from typing import Any

import pytest

from edge_handlers.custom_resource import Contract, parse
from edge_handlers.edge_packaging import EdgePackaging
from edge_handlers.model_package import ModelPackage
from edge_handlers.model_verification import Verification
from edge_handlers.neo_compilation import CompilationJob
from edge_handlers.onnx_compilation import OnnxCompilation
from tests.handlers import event

CONTRACTS: dict[str, type[Contract]] = {
    "model_package": ModelPackage,
    "onnx_compilation": OnnxCompilation,
    "neo_compilation": CompilationJob,
    "model_verification": Verification,
    "edge_packaging": EdgePackaging,
}
BUCKET = "s3://artifacts-dev"
OTHERS: list[tuple[str, str, Any]] = [
    ("model_package", "SourceUri", f"{BUCKET}/sources/iris/SHA/model.tar.gz"),
    ("model_package", "SourceUri", f"{BUCKET}/sources/digits-2/SHA/model.tar.gz"),
    ("model_package", "SourceUri", f"{BUCKET}/artifacts/SHA/runtime.zip"),
    ("model_package", "CompiledUri", f"{BUCKET}/compiled/edgewright-dev-iris-0123456789ab/model.tar.gz"),
    ("model_package", "CompiledUri", f"{BUCKET}/compiled/edgewright-dev-my-digits-0123456789ab/model.tar.gz"),
    ("model_package", "CompiledUri", f"{BUCKET}/compiled/edgewright-dev-digits-2-0123456789ab/model.tar.gz"),
    ("model_package", "CompiledUri", f"{BUCKET}/compiled/edge-manager/iris-1.0.tar.gz"),
    ("model_package", "JobNamePrefix", "edgewright-dev-iris"),
    ("model_package", "Model", "iris"),
    ("model_package", "Model", "../iris"),
    ("model_package", "Name", "../iris/Iris"),
    ("onnx_compilation", "SourceUri", f"{BUCKET}/sources/iris/SHA/model.tar.gz"),
    ("onnx_compilation", "RuntimeUri", f"{BUCKET}/sources/iris/SHA/model.tar.gz"),
    ("onnx_compilation", "JobNamePrefix", "edgewright-dev-iris"),
    ("neo_compilation", "SourceUri", f"{BUCKET}/sources/iris/SHA/model.tar.gz"),
    ("neo_compilation", "JobNamePrefix", "edgewright-dev-iris"),
    ("model_verification", "ModelUri", f"{BUCKET}/compiled/edgewright-dev-iris-0123456789ab/model.tar.gz"),
    ("model_verification", "SampleUri", f"{BUCKET}/sources/iris/SHA/verification.json"),
    ("model_verification", "OutputUri", f"{BUCKET}/verification/iris"),
    ("model_verification", "NamePrefix", "edgewright-dev-iris"),
    ("edge_packaging", "CompilationJobName", "edgewright-dev-iris-0123456789ab"),
    ("edge_packaging", "ModelName", "iris"),
]


@pytest.mark.parametrize("capability", CONTRACTS)
def test_a_request_of_its_own_model_is_taken(capability: str) -> None:
    request = parse(event.create(capability))

    assert CONTRACTS[capability].of(request.properties)


@pytest.mark.parametrize(("capability", "name", "value"), OTHERS)
def test_a_request_for_another_models_is_refused_with_the_property(capability: str, name: str, value: str) -> None:
    request = parse(event.create(capability, **{name: value}))

    with pytest.raises(ValueError, match=r"ResourceProperties\.\w+( and \w+)? must (be|end|start) "):
        CONTRACTS[capability].of(request.properties)
