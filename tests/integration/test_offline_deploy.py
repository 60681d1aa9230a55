"""The demo's story on one twin: deploy, predict, survive faults, update, destroy. The tests run in this order."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from config.names import Names
from config.places import PROJECT as ROOT
from tests.app_copy import copy_app
from tests.device_processes import device_pid, inference_process
from tests.edge_agent.conftest import PROTO, Client, tensor
from tests.packaged_nucleus import NUCLEUS_USER, follow_readme, interpreter, packaged, reads
from tests.packaged_nucleus import ROOT as AS_ROOT
from tools.offline_deploy import OfflineDeploy
from tools.predictions import HeldOut, Site, accuracy
from twin import TwinError, inventory, lifecycle
from twin.cli import application
from twin.devices.identity import COMPONENT_USER
from twin.operator import OperatorClient
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
NAMES = Names("twin")
_SNAPSHOT_S = 3  # the twin writes its state every second; what is younger dies with it
#: A picture of which the model is not sure enough: it is captured.
UNSURE = 83
REQUEST, RESPONSE = NAMES.request_topic("digits"), NAMES.response_topic("digits")


@dataclass
class Deployed:
    """A copy of the app, the twin that it is deployed to, and a client of the fleet."""

    app: Path
    home: Path
    state: TwinState
    deploy: OfflineDeploy
    operator: OperatorClient

    def ask(self, request: dict[str, Any], timeout_s: float = 30) -> dict[str, Any]:
        return self.operator.request(REQUEST, request, RESPONSE, timeout_s=timeout_s)

    def ask_until_answered(self, limit_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        attempt = 0
        while True:
            attempt += 1
            try:
                return self.ask({"request_id": f"again-{attempt}-{time.monotonic_ns()}", "index": 1}, timeout_s=2)
            except TwinError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("run")
    app, home = copy_app(folder / "app"), folder / "twin"
    # With policies evaluated: what a role or a certificate may not do fails here as it does on AWS.
    state = lifecycle.start(home, auth=True)
    try:
        deploy = OfflineDeploy(environment=state.environment(), out=folder / "out", app=app)
        deploy.synth()
        deploy.bootstrap()
        deploy.deploy()
        deploy.wait_for_device(NAMES.edge_server, timeout_s=180)
        with OperatorClient(state) as operator:
            yield Deployed(app, home, state, deploy, operator)
    finally:
        lifecycle.stop(home)


def wait_for(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.2)


def test_predicts_held_out_digits_on_the_device(deployed: Deployed) -> None:
    predictions = list(HeldOut(deployed.operator, NAMES).pictures("digits"))

    assert len(predictions) >= 100
    assert accuracy(predictions) >= 0.95
    assert all(0 < p["probability"] <= 1 and p["latency_ms"] > 0 for p in predictions)


def test_a_purge_knows_all_that_the_twin_makes_in_its_folder(deployed: Deployed) -> None:
    assert [path.name for path in deployed.home.iterdir() if not lifecycle.MADE.fullmatch(path.name)] == []


def test_one_command_asks_a_model_and_shows_what_it_says(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_HOME", str(deployed.home))
    row = '{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'

    asked = CliRunner().invoke(application, ["predict", "iris", "--features", row])

    assert asked.exit_code == 0, asked.output
    assert f"{NAMES.edge_server} says (iris " in asked.output
    assert re.search(r"^setosa +0\.9", asked.output, re.MULTILINE)


def test_a_client_of_the_edge_manager_agent_gets_the_same_answer(deployed: Deployed, tmp_path: Path) -> None:
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={stubs}"]
    subprocess.run([*command, f"--grpc_python_out={stubs}", "agent.proto"], check=True, timeout=60)
    (socket,) = deployed.home.glob(f"instances/*/**/work/{NAMES.inference_component}/agent.sock")
    # A socket's path has at most 107 bytes, and a test's folder is deep.
    with tempfile.TemporaryDirectory() as short:
        link = Path(short) / "work"
        link.symlink_to(socket.parent)
        client = Client(stubs, link / "agent.sock")
        try:
            models = client.call("ListModels")["models"]
            with np.load(ROOT / "edge_assets" / "models" / "digits" / "samples.npz") as samples:
                pixels = (samples["images"][5] / 16).astype(np.float32).reshape(1, 1, 8, 8)
            (logits,) = client.predict("digits", tensor(pixels))
        finally:
            client.close()

    assert {model["name"] for model in models} == {"digits", "iris", "image-classification", "digit-detector"}
    assert str(int(logits.argmax())) == deployed.ask({"request_id": "as-the-agent", "index": 5})["label"]


def test_a_function_of_greengrass_v1_answers_on_the_device(deployed: Deployed) -> None:
    request, response = NAMES.request_topic("digits-v1"), NAMES.response_topic("digits-v1")
    with deployed.operator.listen(response) as answers:
        for index in range(10):
            deployed.operator.publish(request, json.dumps({"index": index}).encode())

        digits = [json.loads(answers.get(timeout=30)) for _ in range(10)]

    assert [answer["index"] for answer in digits] == list(range(10))
    with np.load(ROOT / "edge_assets" / "models" / "digits" / "samples.npz") as samples:
        labels = samples["labels"][:10].tolist()
    assert sum(answer["digit"] == label for answer, label in zip(digits, labels, strict=True)) >= 9


def test_components_of_a_packaged_device_upload_and_cannot_read_its_key(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWIN_HOME", str(deployed.home))
    s3, bucket = deployed.deploy.client("s3"), NAMES.artifact_bucket(deployed.state.account, deployed.state.region)

    def captured() -> str:
        deployed.operator.publish(REQUEST, json.dumps({"request_id": "unsure", "index": UNSURE}).encode())
        time.sleep(1)
        found = s3.list_objects_v2(Bucket=bucket, Prefix="captures/board-1/").get("Contents", [])
        return "".join(s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read().decode() for each in found)

    with packaged() as layout:
        words = ["join", "board-1", "--out", str(layout.bundle), "--root", str(layout.root)]
        joined = CliRunner().invoke(application, words)
        assert joined.exit_code == 0, joined.output
        try:
            follow_readme(layout)
            command = [sys.executable, "-m", "twin.core_device", "--config", str(layout.configuration)]
            device = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **interpreter(layout)})
            try:
                deployed.deploy.wait_for_device("board-1", timeout_s=180)
                log = layout.root / "log" / f"{NAMES.inference_component}.log"
                try:
                    wait_for(lambda: "unsure" in captured(), 120, "a capture of the packaged device")
                except AssertionError as exc:
                    raise AssertionError(f"{exc}; its log ends with:\n{log.read_text()[-4000:]}") from exc
                process = inference_process(layout.root)

                who = process.username()
                assert who == (COMPONENT_USER if AS_ROOT else psutil.Process().username())
                assert process.environ()["GG_ROOT_CA_PATH"] == str(layout.key.with_name("root_ca.pem"))
                assert layout.key.stat().st_mode & 0o777 == 0o600
                assert layout.key.with_name("root_ca.pem").stat().st_mode & 0o777 == 0o644
                if AS_ROOT:
                    readable = [file.name for file in layout.key.parent.iterdir() if reads(COMPONENT_USER, file)]
                    assert sorted(readable) == ["device.pem.crt", "root_ca.pem"]
                    assert layout.key.owner() == NUCLEUS_USER
            finally:
                device.terminate()
                device.wait(30)
        finally:
            assert CliRunner().invoke(application, ["leave", "board-1"]).exit_code == 0


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"this is not JSON", "InvalidRequest"),
        (b"\xff\xfe\x00", "InvalidRequest"),
        (b"[1, 2]", "InvalidRequest"),
        (b"{}", "InvalidRequest"),
        (json.dumps({"index": 10_000}).encode(), "IndexOutOfRange"),
        (json.dumps({"index": -1}).encode(), "IndexOutOfRange"),
        (json.dumps({"image": "bm90IGFuIGltYWdl"}).encode(), "InvalidImage"),
    ],
)
def test_a_bad_request_gets_an_error_answer_and_the_next_one_is_served(
    deployed: Deployed, payload: bytes, code: str
) -> None:
    with deployed.operator.listen(RESPONSE) as answers:
        deployed.operator.publish(REQUEST, payload)

        # Late answers to others' requests come here, too.
        answer = next(each for each in iter(lambda: json.loads(answers.get(timeout=30)), None) if "error" in each)

    assert answer["error"]["code"] == code
    assert answer["error"]["message"]
    assert deployed.ask({"request_id": f"after-{code}-{len(payload)}", "index": 2})["label"]


def test_restarts_a_killed_component(deployed: Deployed) -> None:
    before = inference_process(deployed.home)

    os.kill(before.pid, signal.SIGKILL)

    assert deployed.ask_until_answered()["label"]
    assert inference_process(deployed.home).pid != before.pid


def test_a_killed_core_device_comes_back_with_its_deployment(deployed: Deployed) -> None:
    before = device_pid(deployed.home)
    assert before is not None

    os.kill(before, signal.SIGKILL)

    wait_for(lambda: device_pid(deployed.home) not in (None, before), 60, "a new core device process")
    assert deployed.ask_until_answered()["label"]
    deployed.deploy.wait_for_device(NAMES.edge_server, timeout_s=60)
    assert inference_process(deployed.home)


def test_a_killed_twin_comes_up_again_from_its_state(deployed: Deployed) -> None:
    stacks = {s["StackName"] for s in deployed.deploy.client("cloudformation").describe_stacks()["Stacks"]}

    assert deployed.ask_until_answered()["label"]
    time.sleep(_SNAPSHOT_S)

    os.kill(deployed.state.pid, signal.SIGKILL)
    wait_for(lambda: not deployed.state.running, 30, "the twin's end")
    deployed.state = lifecycle.start(deployed.home, auth=True)

    again = {s["StackName"] for s in deployed.deploy.client("cloudformation").describe_stacks()["Stacks"]}
    assert again == stacks
    assert deployed.ask_until_answered()["label"]


def test_a_new_model_becomes_a_new_component_version_that_the_device_serves(deployed: Deployed) -> None:
    before = deployed.ask({"request_id": "before-update", "index": 3})["model"]
    folder = deployed.app / "edge_assets" / "models" / "digits"
    train = [sys.executable, "-m", "tools.train_digits", "--hidden", "128", "--output", str(folder)]
    subprocess.run(train, cwd=ROOT, check=True, capture_output=True, timeout=120)

    deployed.deploy.synth()
    deployed.deploy.deploy()
    deployed.deploy.wait_for_device(NAMES.edge_server, timeout_s=120)

    wait_for(
        lambda: deployed.ask_until_answered()["model"]["version"] != before["version"], 30, "the new model's answers"
    )
    predictions = list(HeldOut(deployed.operator, NAMES).pictures("digits"))
    assert accuracy(predictions) >= 0.95


def test_deploying_the_same_again_changes_nothing(deployed: Deployed) -> None:
    greengrass = deployed.deploy.client("greengrassv2")
    before = [d["deploymentId"] for d in greengrass.list_deployments()["deployments"]]

    deployed.deploy.deploy()

    assert [d["deploymentId"] for d in greengrass.list_deployments()["deployments"]] == before


def test_the_demos_client_device_is_answered_while_the_line_is_cut(deployed: Deployed, tmp_path: Path) -> None:
    site = Site(deployed.state, NAMES, tmp_path / "camera")

    try:
        site.prepare()
        seen = site.read_a_digit_cut_off()
    finally:
        site.remove()

    assert seen["label"] == seen["expected"]


def test_destroy_leaves_nothing(deployed: Deployed) -> None:
    deployed.operator.close()

    deployed.deploy.destroy()

    left = inventory.take(deployed.state)
    assert left.pop("bootstrap")
    assert {kind: names for kind, names in left.items() if names} == {}
    assert not list(deployed.home.glob("instances/*"))
