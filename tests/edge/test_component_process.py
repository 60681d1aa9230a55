"""The component as a process of its own, with the real SDK client on a real IPC socket."""

import base64
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_constructs.model_source import ModelSource
from edge_inference.messages import Score
from tests.edge.digit_picture import digit_png
from tests.edge.local_device import REQUEST, RESPONSE, LocalDevice, configuration
from tests.edge.model_folder import DIGITS, ROOT, make_package, point
from tests.edge.signing import Signer
from tests.stand_in import NEEDED
from tools.detections import Truth, mean_average_precision
from tools.model_folder import package

pytestmark = pytest.mark.timeout(90)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in good order, so that the coverage of what it ran is kept, or else by force."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


class Component:
    """A running component and what belongs to it."""

    def __init__(self, folder: Path, device: LocalDevice, cores: set[int] | None = None) -> None:
        self.device = device
        self.cores = cores
        self.folder = folder
        self.pointer = folder / "work" / "edgewright.test.model.Digits" / "current"
        self.log = folder / "component.log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.device.environment()}
        environment["PYTHONPATH"] = str(ROOT / "edge_assets" / "inference")
        command = [sys.executable, "-m", "edge_inference", "--work-root", str(self.folder / "work")]
        mask = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores or mask)  # handed down, so that each of its threads has it
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(command, env=environment, stderr=log, cwd=self.folder)
        finally:
            os.sched_setaffinity(0, mask)

    def use_model(self, version: str) -> None:
        point(self.pointer, make_package(self.folder / version, version))

    def wait_for_log(self, text: str, limit_s: float = 30, count: int = 1) -> None:
        deadline = time.monotonic() + limit_s
        while self.log.read_text().count(text) < count:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log.read_text()}"
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def component(tmp_path: Path) -> Iterator[Component]:
    with LocalDevice(tmp_path / "ipc.sock", configuration()) as device:
        running = Component(tmp_path, device)
        try:
            running.use_model("1.0.0")
            device.wait_for_subscription()
            yield running
        finally:
            end(running.process)


def test_recognises_held_out_digits_by_index_and_by_picture(component: Component) -> None:
    with np.load(DIGITS / "samples.npz") as samples:
        images, labels = samples["images"], samples["labels"]

    for index in range(0, 40, 2):
        component.device.send({"request_id": f"i{index}", "index": index})
        picture = base64.b64encode(digit_png(images[index + 1])).decode()
        component.device.send({"request_id": f"i{index + 1}", "image": picture})
    answers = [component.device.answer() for _ in range(40)]

    assert component.device.states == ["RUNNING"]
    assert [answer["request_id"] for answer in answers] == [f"i{index}" for index in range(40)]
    right = sum(answer["label"] == str(label) for answer, label in zip(answers, labels[:40], strict=True))
    assert right >= 38
    first = answers[0]
    assert first["device"] == "thing-1"
    assert first["model"] == {"name": "digits", "version": "1.0.0"}
    assert len(first["top_k"]) == 3
    assert 0 < first["latency_ms"] < 10_000


def test_nothing_of_a_killed_component_stays_with_its_device(component: Component) -> None:
    device = component.device
    assert (len(device._topics[REQUEST]), len(device._watchers)) == (1, 1)

    component.process.kill()
    component.process.wait(30)

    deadline = time.monotonic() + 30
    while device._topics[REQUEST] or device._watchers:
        assert time.monotonic() < deadline, "the device goes on delivering to a client that has left"
        time.sleep(0.02)


def test_every_bad_request_gets_its_error_and_the_next_one_a_prediction(component: Component) -> None:
    device = component.device
    cases = [
        (b"not json", "InvalidRequest"),
        (b"{}", "InvalidRequest"),
        (b'{"index": 99999}', "IndexOutOfRange"),
        (b'{"image": "aGVsbG8="}', "InvalidImage"),
        (b'{"image": "' + b"A" * 5_000_000 + b'"}', "RequestTooLarge"),
    ]

    for payload, code in cases:
        device.send(payload)
        assert device.answer()["error"]["code"] == code

    device.send({"index": 0})
    assert "label" in device.answer()
    assert component.process.poll() is None


def test_a_new_model_takes_over_and_a_corrupt_one_does_not(component: Component) -> None:
    device = component.device
    device.send({"index": 1})
    assert device.answer()["model"]["version"] == "1.0.0"

    component.use_model("1.1.0")
    component.wait_for_log("model digits 1.1.0 in use")
    broken = make_package(component.folder / "1.2.0", "1.2.0")
    (broken / "model.onnx").write_bytes(b"x" + (broken / "model.onnx").read_bytes()[1:])
    point(component.pointer, broken)
    component.wait_for_log("must have the SHA-256")

    device.send({"index": 1})
    assert device.answer()["model"]["version"] == "1.1.0"


def test_a_new_signing_key_holds_for_the_next_model_and_the_one_in_use_answers_on(component: Component) -> None:
    device, old, new = component.device, Signer(), Signer()

    def rotate_to(signer: Signer) -> None:
        before = component.log.read_text().count("serving digits")
        device.configure({**configuration(), "signingKey": signer.public_key})
        component.wait_for_log("serving digits", count=before + 1)

    def deploy(version: str, signer: Signer, said: str) -> str:
        point(component.pointer, signer.sign_package(make_package(component.folder / version, version)))
        component.wait_for_log(said)
        device.send({"index": 1})
        return str(device.answer()["model"]["version"])

    rotate_to(old)
    assert deploy("1.1.0", old, "model digits 1.1.0 in use") == "1.1.0"
    rotate_to(new)
    assert deploy("1.2.0", old, "must be made by the signing key") == "1.1.0"
    assert deploy("1.3.0", new, "model digits 1.3.0 in use") == "1.3.0"


def test_goes_on_after_the_device_restarted_and_after_refused_publishes(component: Component) -> None:
    device = component.device
    device.restart()
    device.wait_for_subscription()

    device.refused_publishes = 4
    for index in range(10):
        device.send({"request_id": str(index), "index": index})

    assert [device.answer()["request_id"] for _ in range(10)] == [str(index) for index in range(10)]


def test_follows_its_configuration_and_keeps_the_old_one_when_the_new_one_is_wrong(component: Component) -> None:
    device = component.device
    device.configure(configuration(topK=0))
    component.wait_for_log("models.digits.topK must be a whole number from 1 to 100, got 0")
    device.send({"index": 1})
    assert len(device.answer()["top_k"]) == 3

    device.configure(configuration(requestTopic="elsewhere"))
    component.wait_for_log("subscribing to elsewhere on the device is refused")
    device.send({"index": 1})
    assert len(device.answer()["top_k"]) == 3

    device.configure(configuration(topK=1))
    deadline = time.monotonic() + 30
    while True:
        device.send({"index": 1})
        if len(device.answer()["top_k"]) == 1:
            break
        assert time.monotonic() < deadline


def test_a_changed_interval_takes_effect_at_once_and_a_bad_one_is_named(component: Component) -> None:
    device = component.device
    (component.folder / "seven.png").write_bytes(digit_png(np.load(DIGITS / "samples.npz")["images"][0]))
    picture = {"ImageName": "seven.png", "ImageDirectory": str(component.folder), "resultFormat": "edge-manager"}

    device.configure(configuration(**picture, InferenceInterval=0.2))
    assert [device.answer()["inference-results"][0]["Label"] for _ in range(3)] == ["7", "7", "7"]
    device.configure(configuration(**picture, InferenceInterval="often"))

    component.wait_for_log("models.digits.InferenceInterval must be a number from 0 to 3.1536e+07, got 'often'")
    assert device.answer()["inference-type"] == "image-classification"


def test_results_survive_an_outage_and_a_kill_in_order(component: Component) -> None:
    device = component.device
    device.refused_publishes = 10**6
    for index in range(20):
        device.send({"request_id": str(index), "index": index})
    deadline = time.monotonic() + 30
    while spooled(component.folder / "spool.sqlite") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    component.process.kill()
    component.process.wait(30)
    device.refused_publishes = 0
    component.process = component._start()

    answers = [device.answer() for _ in range(20)]
    assert [answer["request_id"] for answer in answers] == [str(index) for index in range(20)]
    assert len({answer["id"] for answer in answers}) == 20


def spooled(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(file)) as database:
        return int(database.execute("SELECT count(*) FROM messages").fetchone()[0])


def test_ends_with_0_when_told_to_and_answers_first_what_waits(component: Component) -> None:
    device = component.device
    for index in range(20):
        device.send({"index": index})
    # Refused as it comes, ahead of what waits: so all before it has come, too, and is not on its way any more.
    device.send(b"x" * 150_000)
    answers = [device.answer()]
    while "error" not in answers[-1]:
        answers.append(device.answer())

    assert component.stop() == 0
    assert len(answers) + device.answers.qsize() == 21
    assert "Traceback" not in component.log.read_text()


def test_ends_when_the_device_that_started_it_is_replaced(component: Component) -> None:
    component.device.token = "OTHER"

    component.device.restart()

    assert component.process.wait(30) == 1
    assert "does not know this process" in component.log.read_text()


def test_a_wrong_first_configuration_ends_it_with_every_mistake(tmp_path: Path) -> None:
    wrong = configuration(topK="many", requestTopic=RESPONSE + "/#", component="../x")
    with LocalDevice(tmp_path / "ipc.sock", wrong) as device:
        running = Component(tmp_path, device)

        assert running.process.wait(30) == 1

    log = running.log.read_text()
    for key in ("topK", "requestTopic", "component"):
        assert f"models.digits.{key} must" in log


def test_says_what_is_missing_without_a_device(tmp_path: Path) -> None:
    environment = {**NEEDED, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "edge_assets" / "inference")}
    command = [sys.executable, "-m", "edge_inference", "--work-root", "."]

    lone = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    named = subprocess.run(
        command,
        env={**environment, "AWS_IOT_THING_NAME": "t"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (lone.returncode, named.returncode) == (1, 1)
    assert "AWS_IOT_THING_NAME must name the device" in lone.stderr
    assert "a device must start this process" in named.stderr


def cores_of(process: subprocess.Popen[bytes]) -> list[set[int]]:
    """Which cores each thread of a process may run on."""
    masks = []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # one of a model before may just end
            masks.append(os.sched_getaffinity(int(task.name)))
    return masks


def test_finds_held_out_digits_in_pictures_on_one_core_and_with_other_threads(tmp_path: Path) -> None:
    folder = ROOT / "edge_assets" / "models" / "digit-detector"
    unpacked = package(ModelSource.read(folder), tmp_path / "detector")
    manifest = json.loads((unpacked / "manifest.json").read_text()) | {"name": "digits"}
    (unpacked / "manifest.json").write_text(json.dumps(manifest))
    with np.load(folder / "samples.npz") as samples:
        images, objects = samples["images"], samples["objects"]
    there = [[Truth(str(int(row[1])), row[2:].tolist()) for row in objects if row[0] == n] for n in range(len(images))]

    with LocalDevice(tmp_path / "ipc.sock", configuration(topK=50)) as device:
        running = Component(tmp_path, device, cores={min(os.sched_getaffinity(0))})
        try:
            point(running.pointer, unpacked)
            device.wait_for_subscription()
            for number, image in enumerate(images):
                picture = base64.b64encode(digit_png(image)).decode()
                device.send({"request_id": str(number), "image": picture})
            answers = [device.answer() for _ in images]
            device.configure(configuration(topK=50, threads=0, parallel=3))
            running.wait_for_log("model digits 0.0.0 in use")
            for number in range(len(images)):
                device.send({"request_id": str(number), "index": number})
            again = [device.answer() for _ in images]
            masks = cores_of(running.process)
        finally:
            end(running.process)

    for given in (answers, again):
        assert [answer["request_id"] for answer in given] == [str(number) for number in range(len(images))]
        found = [
            [Score(each["label"], each["probability"], tuple(each["box"])) for each in answer["objects"]]
            for answer in given
        ]
        assert mean_average_precision(found, there) >= 0.9
    assert {tuple(mask) for mask in masks} == {(min(os.sched_getaffinity(0)),)}
