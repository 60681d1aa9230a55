"""A stack that is deleted while it is created: CloudFormation makes up the id of a resource that has not answered yet.

What its handler began is found by the properties.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_handlers import custom_resource, edge_packaging, model_verification, neo_compilation, sagemaker_devices
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_device_fleets import FakeDeviceFleets
from tests.handlers.fake_endpoints import FakeEndpoints
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.fake_sagemaker import FakeSageMaker
from tests.handlers.model_archive import targz
from tests.handlers.test_edge_packaging import FakePackaging
from tests.handlers.test_model_verification import MODEL, SAMPLE

MADE_UP = ["edgewright-dev-model-digits-Resource-1ABCDEF2GHIJK", "3f2c1a90-5d7e-4b1a-9c3d-0123456789ab"]
HANDLERS = Path(custom_resource.__file__).parent


@pytest.mark.parametrize("made_up", MADE_UP)
def test_a_compilation_job_that_was_begun_is_stopped_and_deleted(sagemaker: FakeSageMaker, made_up: str) -> None:
    name = neo_compilation.on_event(event.create("neo_compilation"), Context())["PhysicalResourceId"]
    request = event.delete("neo_compilation", made_up)

    answer = neo_compilation.on_event(request, Context())
    assert not neo_compilation.is_complete(event.poll(request, answer), Context())["IsComplete"]
    sagemaker.end(name, "STOPPED")

    assert neo_compilation.is_complete(event.poll(request, answer), Context())["IsComplete"]
    assert sagemaker.jobs == {}


@pytest.mark.parametrize("made_up", MADE_UP)
def test_a_packaging_job_that_was_begun_is_stopped(serve: Callable[..., None], made_up: str) -> None:
    serve(sagemaker=(sagemaker := FakePackaging()))
    name = edge_packaging.on_event(event.create("edge_packaging"), Context())["PhysicalResourceId"]

    edge_packaging.on_event(event.delete("edge_packaging", made_up), Context())

    assert sagemaker.jobs[name]["EdgePackagingJobStatus"] == "STOPPING"


@pytest.mark.parametrize("made_up", MADE_UP)
def test_an_endpoint_that_was_begun_is_deleted(serve: Callable[..., None], s3: FakeS3, made_up: str) -> None:
    cloud = FakeEndpoints()
    serve(**{"sagemaker": cloud, "sagemaker-runtime": cloud, "logs": cloud})
    s3.put("artifacts-dev", MODEL, targz({"model.onnx": b"compiled"}))
    s3.put("artifacts-dev", SAMPLE, json.dumps({"inputs": [], "outputs": []}).encode())
    name = model_verification.on_event(event.create("model_verification"), Context())["PhysicalResourceId"]
    cloud.endpoints[name]["EndpointStatus"] = "InService"

    model_verification.on_event(event.delete("model_verification", made_up), Context())

    assert cloud.nothing_left


@pytest.mark.parametrize("made_up", MADE_UP)
def test_devices_that_were_registered_leave_their_fleet(serve: Callable[..., None], s3: FakeS3, made_up: str) -> None:
    serve(sagemaker=(fleets := FakeDeviceFleets()), s3=s3)
    fleets.fleets = {"edgewright-dev-devices": {}, "of-somebody-else": {"line-9": "line-9"}}
    content = json.dumps({"line-1": "all"}).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    s3.put("cdk-assets", f"{sha256}.json", content)
    listing: dict[str, Any] = {"ListKey": f"{sha256}.json", "ListSha256": sha256}
    sagemaker_devices.on_event(event.create("sagemaker_devices", **listing), Context())

    sagemaker_devices.on_event(event.delete("sagemaker_devices", made_up, **listing), Context())

    assert fleets.fleets == {"edgewright-dev-devices": {}, "of-somebody-else": {"line-9": "line-9"}}


def test_the_delete_of_a_replaced_resource_is_about_its_id(sagemaker: FakeSageMaker) -> None:
    before = neo_compilation.on_event(event.create("neo_compilation"), Context())["PhysicalResourceId"]
    now = neo_compilation.on_event(event.create("neo_compilation", TargetArch="ARM64"), Context())["PhysicalResourceId"]
    sagemaker.end(before, "COMPLETED")
    sagemaker.end(now, "COMPLETED")
    request = event.delete("neo_compilation", before, TargetArch="ARM64")

    answer = neo_compilation.on_event(request, Context())
    neo_compilation.is_complete(event.poll(request, answer), Context())

    assert list(sagemaker.jobs) == [now]


def test_no_handler_deletes_by_the_id_alone() -> None:
    by_id = re.compile(r"\b(?:delete|remove|retire|stop)\w*\(\s*(?:\w+\(\s*)?request\.known_id")

    found = [path.name for path in sorted(HANDLERS.glob("*.py")) if by_id.search(path.read_text())]

    assert by_id.search("devices.delete(fleet_of(request.known_id))"), "the search finds what it looks for"
    assert found == [], "use custom_resource.begun_name"
