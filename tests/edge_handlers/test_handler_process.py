"""V1 functions in the running component, with the real SDK client on a real IPC socket."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.local_device import LocalDevice
from tests.edge.model_folder import ROOT
from tests.edge.test_component_process import end

pytestmark = pytest.mark.timeout(120)
FUNCTIONS = Path(__file__).with_name("functions")
HANDLERS = ROOT / "edge_assets" / "handlers"
IN, OUT = "t/in", "t/out"


def configuration(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "name": "probe",
        "handler": "probe.handler",
        "pinned": True,
        "timeoutSeconds": 60,
        "subscribe": [IN],
        "publish": [OUT],
        **changes,
    }
    settings["accessControl"] = {
        "aws.greengrass.ipc.mqttproxy": {
            "in": {"operations": ["aws.greengrass#SubscribeToIoTCore"], "resources": settings["subscribe"]},
            "out": {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": settings["publish"]},
        },
        "aws.greengrass.ipc.pubsub": {
            "in": {"operations": ["aws.greengrass#SubscribeToTopic"], "resources": settings.get("localSubscribe", [])},
            "out": {"operations": ["aws.greengrass#PublishToTopic"], "resources": settings.get("localPublish", [])},
        },
    }
    return settings


class Component:
    """A running handler component."""

    def __init__(self, folder: Path, function: Path, config: dict[str, Any]) -> None:
        self.pointer = folder / "current"
        self.device = LocalDevice(folder / "ipc.sock", config)
        self.log = folder / "component.log"
        self._function = function
        (folder / "dependencies").mkdir()

    def __enter__(self) -> "Component":
        self.device.__enter__()
        environment = {**os.environ, **self.device.environment()}
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (HANDLERS, ROOT / "edge_assets" / "inference")))
        command = [sys.executable, "-m", "v1_handler", "--version", "1.2.3", "--function", str(self._function)]
        command += ["--dependencies", str(self.log.parent / "dependencies"), "--runtime-pointer", str(self.pointer)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)
        self.device.__exit__()

    def ask(self, **event: Any) -> dict[str, Any]:
        self.device.send(event, IN)
        return self.device.answer()

    def wait_for_log(self, text: str, limit_s: float = 30) -> None:
        deadline = time.monotonic() + limit_s
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log.read_text()}"
            time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Component]]:
    running: list[Component] = []

    def start(function: Path = FUNCTIONS, **changes: Any) -> Component:
        component = Component(tmp_path, function, configuration(**changes)).__enter__()
        running.append(component)
        if changes.get("subscribe") != []:
            component.device.wait_for_subscription(IN)
        return component

    yield start
    for component in running:
        component.__exit__()


def test_a_function_of_the_walk_through_runs_unmodified(run: Callable[..., Component]) -> None:
    import numpy as np

    with np.load(ROOT / "edge_assets" / "models" / "digits" / "samples.npz") as samples:
        labels = samples["labels"][:10].tolist()

    component = run(
        HANDLERS / "functions" / "digits",
        name="digits",
        handler="gg_ml_predict.function_handler",
        environment={"RESULT_TOPIC": OUT},
        pinned=False,
    )
    answers = [component.ask(index=index) for index in range(10)]

    assert sum(answer["digit"] == label for answer, label in zip(answers, labels, strict=True)) >= 9
    assert {answer["function"] for answer in answers} == {"digits"}
    assert {answer["topic"] for answer in answers} == {IN}
    component.wait_for_log("recognised")


def test_moves_to_a_new_runtime_environment_and_answers_there(run: Callable[..., Component], tmp_path: Path) -> None:
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = tmp_path / "venv-2"
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text("\n".join(packages))
    component = run()
    assert component.ask(do="state")["events"] == 1

    component.pointer.write_text(f"{environment}\n")
    deadline = time.monotonic() + 30
    while str(environment) not in Path(f"/proc/{component.process.pid}/cmdline").read_text():
        assert time.monotonic() < deadline, component.log.read_text()
        time.sleep(0.05)
    component.device.wait_for_subscription(IN)

    assert component.ask(do="state")["events"] == 1, "a new process, and it answers"
    assert "starting anew in" in component.log.read_text()


def test_a_pinned_function_keeps_its_process_and_its_state(run: Callable[..., Component]) -> None:
    component = run(environment={"MY_VARIABLE": "a b"})

    states = [component.ask(do="state") for _ in range(3)]

    assert [state["events"] for state in states] == [1, 2, 3]
    assert len({state["pid"] for state in states}) == 1
    assert states[0]["pid"] != component.process.pid
    assert states[0]["cwd"] == str(FUNCTIONS)
    assert states[0]["variable"] == "a b"


def test_a_function_on_demand_starts_with_an_event_and_ends_when_idle(run: Callable[..., Component]) -> None:
    component = run(pinned=False, idleSeconds=1)
    component.wait_for_log("listening")
    assert "function started" not in component.log.read_text()

    first = component.ask(do="state")
    component.wait_for_log("function ended after")
    second = component.ask(do="state")

    assert (first["events"], second["events"]) == (1, 1)
    assert first["pid"] != second["pid"]


def test_the_context_has_the_fields_of_v1(run: Callable[..., Component]) -> None:
    context = run(memoryMb=512).ask(do="context")

    assert context["custom"] == {"subject": IN}
    assert context["function_name"] == "probe"
    assert context["function_version"] == "1.2.3"
    assert context["memory_limit_in_mb"] == 512
    assert context["invoked_function_arn"].startswith("arn:aws:lambda:")
    assert len(context["aws_request_id"]) == 36
    assert 30_000 < context["remaining"] <= 60_000
    assert context["log_stream_name"] == "thing-1"


@pytest.mark.parametrize("kind", ["text", "bytes", "file"])
def test_publishes_texts_bytes_and_files(run: Callable[..., Component], kind: str) -> None:
    component = run()
    event = {"do": "publish", "topic": OUT, "payload": '{"the": "message"}', "as": kind, "policy": "AllOrException"}

    assert component.ask(**event) == {"the": "message"}
    assert component.device.answer() == {"result": None}


def test_a_topic_that_is_not_configured_raises_or_is_dropped_as_the_policy_says(run: Callable[..., Component]) -> None:
    component = run()
    event = {"do": "publish", "topic": "t/other", "payload": "{}"}

    assert component.ask(**event) == {"result": None}
    component.wait_for_log("publication dropped: topic must be one of the configured t/out, got 't/other'")
    refused = component.ask(**event, policy="AllOrException")
    assert refused["error"] == "InvocationException"
    assert "t/other" in refused["text"]
    assert component.ask(**event, policy="Sometimes") == {
        "error": "ValueError",
        "text": "Invalid value for queueFullPolicy: Sometimes",
    }


def test_a_message_that_aws_iot_cannot_carry_raises(run: Callable[..., Component]) -> None:
    refused = run().ask(do="publish", topic=OUT, payload="x" * 131_073, policy="AllOrException")

    assert refused["error"] == "InvocationException"
    assert "at most 131072 bytes, got 131073" in refused["text"]


def test_publishes_from_many_threads(run: Callable[..., Component]) -> None:
    component = run()
    component.device.send({"do": "threads", "count": 40}, IN)

    assert sorted(component.device.answer()["number"] for _ in range(40)) == list(range(40))


def test_exceptions_and_output_go_to_the_log_and_the_next_event_is_served(run: Callable[..., Component]) -> None:
    component = run()
    component.device.send({"do": "raise"}, IN)
    component.device.send(b"no json", IN)

    assert component.ask(do="log") == {"done": True}

    component.wait_for_log("RuntimeError: as told")
    component.wait_for_log("Traceback")
    component.wait_for_log("the message must be JSON")
    component.wait_for_log("printed by the function")
    component.wait_for_log("logged by the function")
    assert component.ask(do="state")["events"] == 3


def test_a_function_that_takes_too_long_or_dies_is_started_anew(run: Callable[..., Component]) -> None:
    component = run(timeoutSeconds=3)
    before = component.ask(do="state")["pid"]

    component.device.send({"do": "sleep", "seconds": 60}, IN)
    component.wait_for_log("timed out after 3 s: its process was killed")
    after = component.ask(do="state")
    component.device.send({"do": "exit"}, IN)
    component.wait_for_log("its process ended with 7")
    last = component.ask(do="state")
    time.sleep(0.5)  # the answer is out before the function has returned
    os.kill(last["pid"], signal.SIGKILL)
    component.wait_for_log("ended by itself")

    assert after["pid"] != before
    assert after["events"] == 1
    assert component.ask(do="state")["pid"] not in (before, after["pid"], last["pid"])


def test_a_function_that_works_at_import_lives_as_long_as_it_is_pinned(run: Callable[..., Component]) -> None:
    component = run(handler="timer.handler")

    assert [component.device.answer() for _ in range(5)] == [{"tick": True}] * 5
    component.device.send({}, IN)
    assert component.device.answer() == {"tick": True}


def test_binary_events_are_bytes(run: Callable[..., Component]) -> None:
    component = run(handler="probe.binary_handler", encoding="binary")
    component.device.send(b"\xff\x00no json", IN)

    assert component.device.answer() == {"kind": "bytes", "length": 9}


def test_a_function_that_cannot_be_imported_is_named_and_tried_again(run: Callable[..., Component]) -> None:
    component = run(handler="nothing.handler")

    component.wait_for_log("the function cannot be imported: ModuleNotFoundError: No module named 'nothing'")
    component.device.configure(configuration())

    assert component.ask(do="state")["events"] == 1


def test_a_changed_configuration_takes_effect_and_a_bad_one_does_not(run: Callable[..., Component]) -> None:
    component = run()
    before = component.ask(do="state")["pid"]

    component.device.configure(configuration(timeoutSeconds=0, handler="no dot"))
    component.wait_for_log("handler must be 'module.function', got 'no dot'")
    component.wait_for_log("timeoutSeconds must be a whole number from 1 to 3600, got 0")
    assert component.ask(do="state")["pid"] == before
    component.device.configure(configuration(subscribe=["t/new"]))
    component.device.wait_for_subscription("t/new")
    component.device.send({"do": "state"}, "t/new")

    assert component.device.answer()["pid"] != before


def test_survives_a_restart_of_the_device_and_ends_in_good_order(run: Callable[..., Component]) -> None:
    component = run()
    before = component.ask(do="state")["pid"]

    component.device.restart()
    component.device.wait_for_subscription(IN)
    assert component.ask(do="state")["pid"] == before
    component.device.send({"do": "sleep", "seconds": 1}, IN)
    time.sleep(0.3)
    component.process.send_signal(signal.SIGTERM)

    assert component.process.wait(30) == 0
    assert component.device.answer() == {"slept": 1}
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_a_killed_component_takes_its_function_along(run: Callable[..., Component]) -> None:
    component = run(handler="timer.handler")
    component.device.answer()
    pids = subprocess.run(["pgrep", "-P", str(component.process.pid)], capture_output=True, text=True, check=True)
    function = int(pids.stdout.split()[0])

    component.process.kill()
    component.process.wait(30)

    deadline = time.monotonic() + 30
    while Path(f"/proc/{function}").exists():
        assert time.monotonic() < deadline, "the function's process is still there"
        time.sleep(0.05)


def test_too_many_events_are_counted_and_dropped(run: Callable[..., Component]) -> None:
    component = run(queueSize=2)
    component.ask(do="state")
    component.device.send({"do": "sleep", "seconds": 1}, IN)
    time.sleep(0.3)
    for _ in range(4):
        component.device.send({"do": "state"}, IN)

    component.wait_for_log("event from t/in dropped, 2 wait already")
    assert component.device.answer() == {"slept": 1}
    assert [component.device.answer()["events"] for _ in range(2)] == [3, 4]


def test_a_function_hears_and_answers_others_of_the_device_while_the_line_is_cut(run: Callable[..., Component]) -> None:
    component = run(subscribe=[], publish=[], localSubscribe=["local/in"], localPublish=[OUT])
    device = component.device
    device.line_is_cut = True
    device.wait_for_local_subscription("local/in")
    heard = device.hear_locally(OUT)

    device.ask_locally({"do": "state"}, "local/in")
    device.ask_locally(b'{"do": "state"}', "local/in")

    assert [json.loads(heard.get(timeout=30))["events"] for _ in range(2)] == [1, 2]  # type: ignore[arg-type]
    assert device.answers.empty()


def test_what_a_function_says_goes_to_every_side_that_its_topic_has(run: Callable[..., Component]) -> None:
    component = run(localPublish=[OUT])
    heard = component.device.hear_locally(OUT)

    answer = component.ask(do="state")

    assert json.loads(heard.get(timeout=30)) == answer  # type: ignore[arg-type]


def test_with_the_line_cut_from_the_start_a_function_serves_the_device_then_the_cloud(
    run: Callable[..., Component],
) -> None:
    component = run(subscribe=[], publish=[OUT], localSubscribe=["local/in"], localPublish=["local/out"])
    device = component.device
    device.line_is_cut = True
    changed = configuration(subscribe=[IN], publish=[OUT], localSubscribe=["local/in"], localPublish=[OUT])
    device.configure(changed)
    component.wait_for_log("it waits for the cloud")
    device.wait_for_local_subscription("local/in")
    heard = device.hear_locally(OUT)
    device.ask_locally({"do": "state"}, "local/in")
    assert json.loads(heard.get(timeout=30))["events"] == 1  # type: ignore[arg-type]

    device.line_is_cut = False
    device.wait_for_subscription(IN)

    assert device.answer()["events"] == 1, "kept while the line was cut"
    assert component.ask(do="state")["events"] == 2
