"""Requests of the device's own components, by AWS's client on a real IPC socket, with and without a line."""

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_component import greengrass_ipc
from edge_component.greengrass_ipc import GreengrassIpc, connect
from edge_component.ipc import IpcError, RefusedError, Side
from tests.edge.digit_picture import digit_png
from tests.edge.local_device import REQUEST, RESPONSE, LocalDevice, configuration
from tests.edge.model_folder import DIGITS, ROOT
from tests.edge.test_component_process import Component, end

pytestmark = pytest.mark.timeout(120)

#: Asks so many times, one after the other, and prints how it was answered: a component as the docs show one.
ASKER = ROOT / "benchmarks" / "asking_component.py"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[LocalDevice]:
    with LocalDevice(tmp_path / "ipc.sock", configuration()) as made:
        yield made


def started(folder: Path, device: LocalDevice) -> Component:
    running = Component(folder, device)
    running.use_model("1.0.0")
    device.wait_for_local_subscription()
    return running


@pytest.fixture
def component(tmp_path: Path, device: LocalDevice) -> Iterator[Component]:
    running = started(tmp_path, device)
    try:
        device.wait_for_subscription()
        yield running
    finally:
        end(running.process)


def answers(heard: "queue.Queue[Any]", count: int) -> list[dict[str, Any]]:
    return [json.loads(heard.get(timeout=30)) for _ in range(count)]


def test_a_neighbour_is_answered_on_the_device_and_the_cloud_in_the_cloud(component: Component) -> None:
    device = component.device
    heard = device.hear_locally()

    device.ask_locally({"request_id": "json", "index": 1})
    device.ask_locally(b'{"request_id": "bytes", "index": 2}')
    device.send({"request_id": "cloud", "index": 3})

    assert [each["request_id"] for each in answers(heard, 2)] == ["json", "bytes"]
    assert device.answer()["request_id"] == "cloud"
    assert (heard.empty(), device.answers.empty()) == (True, True)


def test_pictures_need_no_base64_and_errors_are_the_same(component: Component) -> None:
    device = component.device
    heard = device.hear_locally()
    with np.load(DIGITS / "samples.npz") as samples:
        picture, label = digit_png(samples["images"][0]), str(samples["labels"][0])

    device.ask_locally(picture)
    device.ask_locally(b'{"request_id": "a"}\n' + picture)
    device.ask_locally(b'{"request_id": "b", "index": 1}\n' + picture)
    device.ask_locally(picture[:40])
    device.ask_locally(b"GIF89a")
    device.ask_locally({"request_id": "c", "index": 99999})
    device.ask_locally({"request_id": "d", "index": 1, "device": "another"})
    device.ask_locally({"request_id": "e", "index": 1, "device": "thing-1"})

    said = [(each["request_id"], each.get("label") or each["error"]["code"]) for each in answers(heard, 7)]
    assert said[:6] == [
        (None, label),
        ("a", label),
        ("b", "InvalidRequest"),
        (None, "InvalidImage"),
        (None, "InvalidRequest"),
        ("c", "IndexOutOfRange"),
    ]
    assert said[6][0] == "e"


def test_with_the_line_cut_from_the_start_neighbours_are_answered_and_the_cloud_once_it_is_back(
    tmp_path: Path, device: LocalDevice
) -> None:
    device.line_is_cut = True
    component = started(tmp_path, device)
    try:
        heard = device.hear_locally()
        for number in range(20):
            device.ask_locally({"request_id": str(number), "index": number})
        assert [each["request_id"] for each in answers(heard, 20)] == [str(number) for number in range(20)]
        assert device.states == ["RUNNING"]

        device.line_is_cut = False
        device.wait_for_subscription()
        device.send({"request_id": "cloud", "index": 1})

        assert device.answer()["request_id"] == "cloud"
        assert component.log.read_text().count("it waits for the cloud") == 1
        assert component.log.read_text().count("not renewed") == 0, "what is known is told once"
    finally:
        end(component.process)


def test_answers_to_the_cloud_that_cannot_leave_hold_no_local_answer_back(component: Component) -> None:
    device = component.device
    heard = device.hear_locally()
    device.line_is_cut = True

    for number in range(30):
        device.send({"request_id": f"c{number}", "index": number})
        device.ask_locally({"request_id": str(number), "index": number})
    assert [each["request_id"] for each in answers(heard, 30)] == [str(number) for number in range(30)]
    assert device.answers.empty()
    device.line_is_cut = False

    assert [device.answer()["request_id"] for _ in range(30)] == [f"c{number}" for number in range(30)]


def test_another_component_asks_many_times_over_a_cut_line_and_loses_nothing(component: Component) -> None:
    device = component.device
    asker = subprocess.Popen(
        [sys.executable, str(ASKER), REQUEST, RESPONSE, "400"],
        env={**os.environ, **device.neighbour_environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(1)
        device.line_is_cut = True
        out, _ = asker.communicate(timeout=90)
    finally:
        asker.kill()

    report = json.loads(out)
    assert (report["answered"], report["lost"], report["out_of_order"]) == (400, 0, 0)


def test_local_requests_can_be_switched_off_and_on_while_it_runs(component: Component) -> None:
    device = component.device

    device.configure(configuration(local=False))
    component.wait_for_log("serving digits", count=2)
    deadline = time.monotonic() + 30
    while device._local._subscriptions:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    device.configure(configuration())
    device.wait_for_local_subscription()


def test_results_of_files_go_where_the_configuration_says(component: Component, tmp_path: Path) -> None:
    device = component.device
    heard = device.hear_locally()
    watched = tmp_path / "watched"
    watched.mkdir()

    for served, results in enumerate(("local", "both"), start=2):
        device.configure(configuration(results=results, WatchDirectory=str(watched)))
        component.wait_for_log("serving digits", count=served)
        (watched / f"{results}.part").write_text('{"index": 1}')
        (watched / f"{results}.part").rename(watched / f"{results}.json")
        (answer,) = answers(heard, 1)
        assert answer["request_id"] == f"{results}.json"

    assert device.answer()["request_id"] == "both.json"
    assert device.answers.empty()
    deadline = time.monotonic() + 30
    while list(watched.iterdir()):
        assert time.monotonic() < deadline, "a file whose result is safe stays"
        time.sleep(0.02)


@pytest.fixture
def ipc(device: LocalDevice, monkeypatch: pytest.MonkeyPatch) -> Iterator[GreengrassIpc]:
    for name, value in device.environment().items():
        monkeypatch.setenv(name, value)
    client = connect(lambda: None)
    yield client
    client.close()


@pytest.mark.parametrize("size", [7_200, 100_000])
def test_what_nucleus_lite_does_not_carry_is_refused_before_it_costs_the_connection(
    device: LocalDevice, ipc: GreengrassIpc, size: int
) -> None:
    heard = device.hear_locally()
    if size < 7_300:
        assert ipc.local.publish(RESPONSE, b"x" * size).wait(30)
        assert heard.get(timeout=30) == b"x" * size
        return

    with pytest.raises(RefusedError, match=r"at most 72\d\d bytes on nucleus lite, got 100000"):
        ipc.local.publish(RESPONSE, b"x" * size)
    assert ipc.local.publish(RESPONSE, b"next").wait(30)
    assert not ipc.lost


def test_the_limit_is_that_of_the_frame(device: LocalDevice, ipc: GreengrassIpc) -> None:
    largest = (greengrass_ipc.LITE_FRAME_BYTES - greengrass_ipc._LOCAL_OVERHEAD_BYTES - len(RESPONSE)) // 4 * 3
    heard = device.hear_locally()

    assert ipc.local.publish(RESPONSE, b"x" * largest).wait(30)
    assert len(heard.get(timeout=30)) == largest  # type: ignore[arg-type]
    with pytest.raises(RefusedError):
        ipc.local.publish(RESPONSE, b"x" * (largest + 1))


def test_a_local_topic_outside_of_the_access_control_is_refused(ipc: GreengrassIpc) -> None:
    with pytest.raises(RefusedError):
        ipc.subscribe("edgewright/test/other/request", print, Side.LOCAL)
    with pytest.raises(RefusedError):
        ipc.local.publish("edgewright/test/other/response", b"1").wait(30)


def test_what_waits_for_the_cloud_is_tried_one_topic_at_a_time(device: LocalDevice, ipc: GreengrassIpc) -> None:
    device.config["accessControl"]["aws.greengrass.ipc.mqttproxy"]["in"]["resources"] += ["b", "c"]
    device.line_is_cut = True
    for topic in (REQUEST, "b", "not allowed", "c"):
        ipc.subscribe(topic, lambda _payload: None)
    ipc.renew(600)
    assert not any(device._topics.values())
    assert ipc.unheard == [REQUEST, "b", "not allowed", "c"]

    device.line_is_cut = False
    ipc.renew(600)
    assert ipc.unheard == ["not allowed"], "told by the heartbeat, and tried again"

    assert {topic: len(listening) for topic, listening in device._topics.items() if listening} == {
        REQUEST: 1,
        "b": 1,
        "c": 1,
    }


def test_a_local_subscription_that_the_device_forgot_is_made_anew(device: LocalDevice, ipc: GreengrassIpc) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    ipc.subscribe(REQUEST, heard.put, Side.LOCAL)
    device.forget_local_topics()
    device.ask_locally(b"lost")

    ipc.renew(0)
    device.ask_locally({"a": [1, 2]})

    assert heard.get(timeout=30) == b'{"a":[1,2]}'


def test_a_local_call_on_a_connection_that_ended_is_another_attempt(device: LocalDevice, ipc: GreengrassIpc) -> None:
    device.restart()

    with pytest.raises(IpcError) as caught:
        ipc.local.publish(RESPONSE, b"1").wait(30)
    assert not isinstance(caught.value, RefusedError)
