"""Every call of every handler, refused: throttled beyond the client's own retries, or denied.

The handler must fail with a text that says what it was doing, and the same event must succeed afterwards: that is what
CloudFormation's next try, or the user's, does.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_handlers.artifact_copy import on_event as artifact_copy
from edge_handlers.bucket_sweep import on_event as bucket_sweep
from edge_handlers.component_library import on_event as component_sweep
from edge_handlers.component_library import on_event as component_version
from edge_handlers.model_package import on_event as model_package
from edge_handlers.neo_compilation import on_event as neo_compilation
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.fake_sagemaker import FakeSageMaker
from tests.handlers.fake_service import FakeService
from tests.handlers.model_archive import targz

TARGET = "arn:aws:iot:eu-west-1:111122223333:thinggroup/edgewright-dev"
ASSET_SHA = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of b"foo"


@pytest.fixture
def services(s3: FakeS3, sagemaker: FakeSageMaker, iot: FakeIot, greengrass: FakeGreengrass) -> dict[str, FakeService]:
    """An account in which every event below has something to do."""
    s3.put("cdk-assets", "0f1e.zip", b"foo")
    s3.put("artifacts-dev", "sources/digits/SHA/model.tar.gz", targz({"model.onnx": b"weights"}))
    for name in ("edgewright-dev-digits-0000000000aa", "edgewright-dev-digits-0000000000ee"):
        sagemaker.jobs[name] = {"CompilationJobStatus": "INPROGRESS" if name.endswith("aa") else "COMPLETED"}
    iot.things = {name: {"attributes": {}} for name in ("edgewright-dev-edge-server", "line-1")}
    iot.groups["edgewright-dev"] = {"line-1"}
    iot.provision("one", "line-1")
    greengrass.core_devices = {"line-1"}
    greengrass.deploy("first", TARGET)
    greengrass.versions = {"edgewright.dev.Runtime": ["1.0.1"]}
    recipe = {**RECIPE, "ComponentVersion": "1.0.0"}
    greengrass.create_component_version(json.dumps(recipe).encode(), {})
    return {"s3": s3, "sagemaker": sagemaker, "iot": iot, "greengrassv2": greengrass}


RECIPE: dict[str, Any] = json.loads(event.create("component_version")["ResourceProperties"]["InlineRecipe"])
THERE = event.create(
    "component_version",
    InlineRecipe=json.dumps({**RECIPE, "ComponentVersion": "1.0.0"}),
    ComponentVersionArn=f"{FakeGreengrass.ROOT}:edgewright.dev.Inference:versions:1.0.0",
)
COPY = event.create("artifact_copy", Sha256=ASSET_SHA)
PACK = event.create("model_package", CompiledUri=None)
STOP = event.delete("neo_compilation", "edgewright-dev-digits-0000000000aa")
DROP = event.delete("neo_compilation", "edgewright-dev-digits-0000000000ee")
SWEEP = event.delete("component_sweep", f"sweep-{TARGET}", ComponentNames=["edgewright.dev.*"])
EMPTY = event.delete("bucket_sweep", "sweep-artifacts-dev", RequiredTag="edgewright:disposable")

CALLS: list[tuple[Callable[..., Any], dict[str, Any], str, tuple[str, ...]]] = [
    (artifact_copy, COPY, "s3", ("get_object", "copy_object")),
    (model_package, PACK, "s3", ("get_object", "head_object", "upload_fileobj", "put_object")),
    (
        neo_compilation,
        event.create("neo_compilation"),
        "sagemaker",
        ("describe_compilation_job", "create_compilation_job"),
    ),
    (neo_compilation, STOP, "sagemaker", ("describe_compilation_job", "stop_compilation_job")),
    (neo_compilation, DROP, "sagemaker", ("delete_compilation_job",)),
    (
        component_sweep,
        SWEEP,
        "greengrassv2",
        (
            "list_deployments",
            "cancel_deployment",
            "delete_deployment",
            "list_components",
            "list_component_versions",
            "delete_component",
        ),
    ),
    (
        component_version,
        event.create("component_version"),
        "greengrassv2",
        ("create_component_version", "describe_component"),
    ),
    (component_version, THERE, "greengrassv2", ("get_component", "tag_resource")),
    (bucket_sweep, EMPTY, "s3", ("get_bucket_tagging", "list_object_versions", "delete_objects")),
]
CASES = [
    pytest.param(
        handler, request, service, call, id=f"{handler.__module__.split('.')[1]}-{request['RequestType']}-{call}"
    )
    for handler, request, service, calls in CALLS
    for call in calls
]


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
@pytest.mark.parametrize(("handler", "request_event", "service", "call"), CASES)
def test_a_refused_call_is_explained_and_the_same_event_succeeds_afterwards(
    services: dict[str, FakeService],
    handler: Callable[..., Any],
    request_event: dict[str, Any],
    service: str,
    call: str,
    code: str,
) -> None:
    if handler is bucket_sweep:
        services["s3"].tags["artifacts-dev"] = {"edgewright:disposable": "true"}  # type: ignore[attr-defined]
    services[service].refuse(call, code)

    with pytest.raises(AwsCallError, match=rf"^cannot \w+ .+: .*{code}"):
        handler(request_event, Context())
    answer = handler(request_event, Context())

    assert answer["PhysicalResourceId"]
    if request_event["RequestType"] == "Delete":
        assert answer["PhysicalResourceId"] == request_event["PhysicalResourceId"]
