"""The agent in the running component, and a client in a process of its own."""

import base64
import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from onnx import TensorProto

from tests.edge.local_device import LocalDevice, configuration
from tests.edge.model_folder import DIGITS, make_package
from tests.edge.signing import Signer
from tests.edge.test_component_process import Component, end
from tests.edge.test_s3_objects import Service, environment
from tests.edge_agent.agent_models import adder, averages, doubler
from tests.edge_agent.conftest import Client, RefusedError, array, tensor

pytestmark = pytest.mark.timeout(120)
SIGNER = Signer()


def agent(socket: Path, **changes: Any) -> dict[str, Any]:
    return {"socket": str(socket), "maxModels": 3, **changes}


@contextmanager
def running(folder: Path) -> Iterator[Component]:
    config = {**configuration(), "agent": agent(folder / "a.sock"), "signingKey": SIGNER.public_key}
    with LocalDevice(folder / "ipc.sock", config) as device:
        component = Component(folder, device)
        try:
            component.wait_for_log("agent: serving")
            device.wait_for_subscription()
            yield component
        finally:
            end(component.process)


@pytest.fixture
def component(tmp_path: Path) -> Iterator[Component]:
    """A component of the test's own, to be changed, stopped and killed."""
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def own_client(component: Component, connect: Callable[[Path], Client]) -> Client:
    return connect(component.folder / "a.sock")


@pytest.fixture(scope="module")
def served(stubs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Component, Client]]:
    """One component and its client for the tests that only call it."""
    with (
        running(tmp_path_factory.mktemp("served")) as started,
        closing(Client(stubs, started.folder / "a.sock")) as own,
    ):
        yield started, own


@pytest.fixture
def client(served: tuple[Component, Client]) -> Iterator[Client]:
    """The client of a component without a model; it runs on, and what a test has loaded goes."""
    started, client = served
    assert client.call("ListModels") == {}
    yield client
    for model in client.call("ListModels").get("models", []):
        client.call("UnLoadModel", name=model["name"])
    assert started.process.poll() is None


def signed(folder: Path) -> str:
    return str(SIGNER.sign_package(folder))


def refused(client: Client, verb: str, **request: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        client.call(verb, **request)
    return caught.value.code


def test_loads_describes_predicts_lists_and_unloads(client: Client, tmp_path: Path) -> None:
    url = signed(doubler(tmp_path / "m"))
    described = {
        "url": url,
        "name": "twice",
        "input_tensor_metadatas": [{"name": "x", "data_type": "FLOAT32", "shape": [-1, 3]}],
        "output_tensor_metadatas": [{"name": "y", "data_type": "FLOAT32", "shape": [-1, 3]}],
    }

    assert client.call("ListModels") == {}
    assert client.call("LoadModel", url=url, name="twice") == {"model": described}
    assert client.call("ListModels") == {"models": [described]}
    assert client.call("DescribeModel", name="twice") == {"model": described}
    for batch in (1, 2, 17):
        values = np.random.default_rng(batch).random((batch, 3), np.float32)
        np.testing.assert_array_equal(client.predict("twice", tensor(values, "x"))[0], values * 2)
    assert client.call("UnLoadModel", name="twice") == {}
    assert client.call("ListModels") == {}
    assert refused(client, "Predict", name="twice") == "NOT_FOUND"


def test_a_tensor_without_metadata_takes_its_batch_from_its_length(client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(doubler(tmp_path / "m")), name="m")
    values = np.arange(12, dtype=np.float32)

    answer = client.call("Predict", name="m", tensors=[{"byte_data": base64.b64encode(values.tobytes()).decode()}])

    assert array(answer["tensors"][0]).tolist() == (values * 2).reshape(4, 3).tolist()


def test_a_shape_may_be_the_one_of_the_description_or_left_out(client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(doubler(tmp_path / "m")), name="m")
    values = np.arange(12, dtype=np.float32).reshape(4, 3)

    for shape in ([-1, 3], [4, -1], [], [4, 3]):
        (out,) = client.predict("m", tensor(values, "x", shape=shape))
        assert out.tolist() == (values * 2).tolist(), shape
    # No rows are a batch, too; what the model says of a size counts where the client says nothing.
    (out,) = client.predict("m", tensor(values[:0], "x", shape=[-1, 3]))
    assert out.shape == (0, 3)
    (out,) = client.predict("m", tensor(values, "x", shape=[-1, -1]))
    assert out.shape == (4, 3)
    for shape in ([-1, -1], [-1, 3], []):
        seven = [tensor(values.ravel()[:7], "x", shape=shape)]
        assert refused(client, "Predict", name="m", tensors=seven) == "INVALID_ARGUMENT"


def test_a_model_that_does_not_say_its_shapes_takes_any(client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(doubler(tmp_path / "m", shape=None)), name="m")
    values = np.arange(12, dtype=np.float32)

    described = client.call("DescribeModel", name="m")["model"]["input_tensor_metadatas"]
    shapes = [client.predict("m", tensor(values, "x", shape=given))[0].shape for given in ([3, 4], [2, -1, 2], [-1])]
    (scalar,) = client.predict("m", tensor(np.float32(3), "x"))

    assert described == [{"name": "x", "data_type": "FLOAT32"}]
    assert shapes == [(3, 4), (2, 3, 2), (12,)]
    assert (scalar.shape, scalar.tolist()) == ((), 6.0)
    assert refused(client, "Predict", name="m", tensors=[tensor(values, "x", shape=[])]) == "INVALID_ARGUMENT"
    assert refused(client, "Predict", name="m", tensors=[tensor(values, "x", shape=[-1, -1])]) == "INVALID_ARGUMENT"


def test_a_message_that_is_none_or_has_names_that_are_no_utf_8_is_an_invalid_argument(
    client: Client, component: Component
) -> None:
    codes = set()
    with grpc.insecure_channel(f"unix:{component.folder / 'a.sock'}") as channel:
        for verb in ("UnLoadModel", "DescribeModel", "Predict", "CaptureData"):
            call = channel.unary_unary(f"/AWS.SageMaker.Edge.Agent/{verb}")
            for message in (b"\x0a\x01\xff", b"\x0a\x05x", b"\xff"):
                with pytest.raises(grpc.RpcError) as caught:
                    call(message, timeout=60, wait_for_ready=True)
                codes.add(caught.value.code())

    assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
    assert client.call("ListModels") == {}


def test_one_large_request_leaves_the_memory_as_it_was(component: Component, client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(averages(tmp_path / "m")), name="m")
    pictures = np.ones((50, 3, 224, 224), np.float32)  # 30 MB
    process = psutil.Process(component.process.pid)
    for _ in range(3):
        client.predict("m", tensor(pictures[:1]))
    start = process.memory_info().rss

    (large,) = client.predict("m", tensor(pictures))
    client.predict("m", tensor(pictures[:1]))

    assert large.shape == (50, 16, 1, 1)
    deadline = time.monotonic() + 30
    while (now := process.memory_info().rss) > 1.2 * start:
        assert time.monotonic() < deadline, f"{start / 1e6:.0f} MB before, {now / 1e6:.0f} MB at rest"
        time.sleep(0.1)


def test_inputs_are_told_apart_by_name_and_type(client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(adder(tmp_path / "m")), name="sum")
    a, b = np.array([0.5, 1.5], np.float32), np.array([1, 2], np.int64)

    (both,) = client.predict("sum", tensor(b, "b"), tensor(a, "a"))

    assert both.tolist() == [1.5, 3.5]


@pytest.mark.parametrize("element", ["UINT8", "INT16", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE"])
def test_carries_every_type_of_the_protocol(client: Client, tmp_path: Path, element: str) -> None:
    # ONNX adds no 8- and 16-bit integers: those go in and out unchanged.
    from onnx import helper

    from tests.edge_agent.agent_models import make_package as raw_package

    number = getattr(TensorProto, element)
    info = [helper.make_tensor_value_info(name, number, [2]) for name in "xy"]
    folder = raw_package(tmp_path / "m", [helper.make_node("Identity", ["x"], ["y"])], info[:1], info[1:])
    client.call("LoadModel", url=signed(folder), name="m")
    values = np.array([1, 2], helper.tensor_dtype_to_np_dtype(number))

    (out,) = client.predict("m", tensor(values))

    assert (out.dtype, out.tolist()) == (values.dtype, values.tolist())


X = np.zeros((1, 3), np.float32)
WRONG: dict[str, list[dict[str, Any]]] = {
    "no tensor": [],
    "two tensors": [tensor(X), tensor(X)],
    "unknown input": [tensor(X, "z")],
    "wrong type": [tensor(X.astype(np.float64), "x")],
    "unknown type": [tensor(X, "x", data_type=99)],
    "wrong shape": [tensor(np.zeros((1, 4), np.float32), "x")],
    "wrong rank": [tensor(np.zeros(3, np.float32), "x")],
    "negative size": [tensor(X, "x", shape=[-2, 3])],
    "a free size that does not come out": [tensor(np.zeros(4, np.float32), "x", shape=[-1, 3])],
    "too short": [tensor(X, "x", shape=[2, 3])],
    "a huge shape": [tensor(X, "x", shape=[2**31 - 1, 3])],
    "no data": [{"tensor_metadata": {"name": "x", "data_type": "FLOAT32", "shape": [1, 3]}}],
    "odd length": [{"byte_data": base64.b64encode(b"12345").decode()}],
    "unknown segment": [{"shared_memory_handle": {"segment_id": 2**31 - 1, "size": 12}}],
    "segment id out of range": [{"shared_memory_handle": {"segment_id": 2**63, "size": 12}}],
    "segment size out of range": [{"shared_memory_handle": {"segment_id": 0, "size": 2**63}}],
}


def test_every_wrong_tensor_is_an_invalid_argument_and_the_next_call_works(client: Client, tmp_path: Path) -> None:
    client.call("LoadModel", url=signed(doubler(tmp_path / "m")), name="m")

    codes = {what: refused(client, "Predict", name="m", tensors=tensors) for what, tensors in WRONG.items()}

    assert codes == dict.fromkeys(WRONG, "INVALID_ARGUMENT")
    assert client.predict("m", tensor(X))[0].shape == (1, 3)


def test_each_way_to_fail_to_load_has_its_code(client: Client, tmp_path: Path) -> None:
    good = signed(doubler(tmp_path / "good"))
    unsigned = str(doubler(tmp_path / "unsigned"))
    truncated = signed(doubler(tmp_path / "truncated"))
    (Path(truncated) / "model.onnx").write_bytes(b"cut")
    no_model = doubler(tmp_path / "no-model")
    boolean = signed(doubler(tmp_path / "int8", TensorProto.UINT32, [2]))
    client.call("LoadModel", url=good, name="taken")

    def code(url: str, name: str = "other") -> str:
        return refused(client, "LoadModel", url=url, name=name)

    assert code(good, "taken") == "ALREADY_EXISTS"
    assert code("/no/such/folder") == "NOT_FOUND"
    assert code("relative/folder") == "NOT_FOUND"
    assert code("") == "NOT_FOUND"
    assert code("/\0") == "NOT_FOUND"
    (no_model / "model.onnx").unlink()
    assert code(str(no_model)) == "NOT_FOUND"
    assert code(unsigned) == "FAILED_PRECONDITION"
    assert code(truncated) == "FAILED_PRECONDITION"
    assert code(boolean) == "FAILED_PRECONDITION"
    for name in ("", "a_b", "-a", "a-", "a b", "x" * 300):
        assert code(good, name) == "INVALID_ARGUMENT"
    client.call("LoadModel", url=good, name="second")
    client.call("LoadModel", url=good, name="third")
    assert code(good, "fourth") == "RESOURCE_EXHAUSTED"
    assert refused(client, "UnLoadModel", name="other") == "NOT_FOUND"
    assert refused(client, "DescribeModel", name="other") == "NOT_FOUND"


def test_the_models_of_the_device_are_there_and_stay_with_the_device(component: Component, own_client: Client) -> None:
    client = own_client
    SIGNER.sign_package(make_package(component.folder / "1.0.0", "1.0.0"))
    component.pointer.parent.mkdir(parents=True)
    component.pointer.write_text(f"{component.folder / '1.0.0'}/\n")
    component.wait_for_log("model digits 1.0.0 in use")
    with np.load(DIGITS / "samples.npz") as samples:
        pixels = (samples["images"][3] / 16).astype(np.float32).reshape(1, 1, 8, 8)

    logits = client.predict("digits", tensor(pixels, "image"))[0]
    component.device.send({"index": 3})
    assert component.device.answer()["label"] == str(int(logits.argmax()))
    assert refused(client, "LoadModel", url=str(component.pointer.parent), name="digits") == "ALREADY_EXISTS"

    client.call("UnLoadModel", name="digits")
    assert client.call("ListModels") == {}
    component.device.send({"index": 3})
    assert component.device.answer()["label"]
    # The work folder of the model's component, which holds the pointer, is a url as well.
    client.call("LoadModel", url=str(component.pointer.parent), name="digits")
    assert client.predict("digits", tensor(pixels))[0].tolist() == logits.tolist()


def test_captures_go_to_s3_where_the_device_uploads(
    tmp_path: Path, connect: Callable[[Path], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    capture_id = str(uuid.uuid4())
    with Service() as service, LocalDevice(tmp_path / "ipc.sock", configuration()) as device:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        device.config |= {"agent": agent(tmp_path / "a.sock"), "captureBucket": "bucket"}
        for name, value in environment(service).items():
            monkeypatch.setenv(name, value)
        component = Component(tmp_path, device)
        try:
            component.wait_for_log("agent: serving")
            client = connect(tmp_path / "a.sock")
            values = tensor(np.ones((1, 2), np.float32), "x")
            client.call("CaptureData", model_name="m", capture_id=capture_id, input_tensors=[values])
            deadline = time.monotonic() + 30
            while not service.objects:
                assert time.monotonic() < deadline, component.log.read_text()
                time.sleep(0.05)
        finally:
            end(component.process)
            service.shutdown()

    ((path, body),) = service.objects.items()
    record = json.loads(body)
    assert path.startswith("/bucket/captures/thing-1/m/")
    assert (record["id"], record["captureId"]) == (capture_id, capture_id)
    assert record["inputTensors"][0]["shape"] == [1, 2]


def test_captures_are_written_and_their_outcome_told(client: Client, served: tuple[Component, Client]) -> None:
    captures = served[0].folder / "captures"
    capture_id = str(uuid.uuid4())
    request = {
        "model_name": "m",
        "capture_id": capture_id,
        "inference_timestamp": {"seconds": 1_700_000_000, "nanos": 5_000},
        "input_tensors": [tensor(X, "x")],
        "inputs": [{"name": "note", "encoding": "JSON", "byte_data": base64.b64encode(b"{}").decode()}],
    }

    assert refused(client, "GetCaptureDataStatus", capture_id=capture_id) == "NOT_FOUND"
    client.call("CaptureData", **request)
    assert refused(client, "CaptureData", **request) == "ALREADY_EXISTS"
    deadline = time.monotonic() + 30
    while client.call("GetCaptureDataStatus", capture_id=capture_id)["status"] == "IN_PROGRESS":
        assert time.monotonic() < deadline
    assert client.call("GetCaptureDataStatus", capture_id=capture_id) == {"status": "SUCCESS"}
    (written,) = captures.glob(f"*{capture_id}.json")
    assert written.name == f"20231114T221320000005.m.{capture_id}.json"

    free = {**request, "capture_id": str(uuid.uuid4()), "input_tensors": [tensor(X, "x", shape=[-1, *X.shape[1:]])]}
    client.call("CaptureData", **free)
    while not (found := list(captures.glob(f"*{free['capture_id']}.json"))):
        assert time.monotonic() < deadline
    assert json.loads(found[0].read_text())["inputTensors"][0]["shape"] == list(X.shape)
    for shape in ([-1, -1], [-1, 5]):
        wrong = {**request, "capture_id": str(uuid.uuid4()), "input_tensors": [tensor(X, "x", shape=shape)]}
        assert refused(client, "CaptureData", **wrong) == "INVALID_ARGUMENT"

    assert refused(client, "CaptureData", **{**request, "capture_id": "7"}) == "INVALID_ARGUMENT"
    assert refused(client, "CaptureData", **{**request, "model_name": "../x"}) == "INVALID_ARGUMENT"
    future = {"seconds": int(time.time()) + 60}
    later = {**request, "capture_id": str(uuid.uuid4()), "inference_timestamp": future}
    assert refused(client, "CaptureData", **later) == "OUT_OF_RANGE"


def test_the_socket_is_for_user_and_group_and_goes_with_the_component(component: Component, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o660

    assert component.stop() == 0

    assert not (tmp_path / "a.sock").exists()


def test_a_killed_component_leaves_a_socket_that_the_next_one_takes(component: Component, own_client: Client) -> None:
    component.process.kill()
    component.process.wait(30)
    assert (component.folder / "a.sock").exists()

    component.process = component._start()

    assert own_client.call("ListModels") == {}


def test_a_change_of_the_configuration_moves_the_agent_and_a_bad_one_does_not(
    component: Component, connect: Callable[[Path], Client], tmp_path: Path
) -> None:
    device = component.device
    before = device.config

    device.configure({**before, "agent": agent(tmp_path / "b.sock", maxModels=0)})
    component.wait_for_log("agent.maxModels must be a whole number from 1 to 64, got 0")
    assert (tmp_path / "a.sock").exists()
    device.configure({**before, "signingKey": "nonsense"})
    component.wait_for_log("signingKey must be base64 of a P-256 public key in DER, got 'nonsense'")
    device.configure({**before, "agent": agent(tmp_path / "b.sock")})
    assert connect(tmp_path / "b.sock").call("ListModels") == {}
    assert not (tmp_path / "a.sock").exists()

    device.configure({key: value for key, value in before.items() if key != "agent"})
    component.wait_for_log("agent: stopped")
    deadline = time.monotonic() + 30
    while (tmp_path / "b.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.path.lexists(tmp_path / "ipc.sock")
    assert component.process.poll() is None
