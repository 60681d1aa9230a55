"""Faults of the agent, of V1 functions and of signatures on the twin's IPC server: what is lost, hangs or grows.

    .venv/bin/python benchmarks/edge_faults.py [--kills 50] [--messages 1000] [--only inference|handler]

The components are real processes with the real SDK client; the report goes to standard output as JSON.
"""

import argparse
import json
import os
import queue
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

for root in (".", "constructs", "edge_assets/inference", "edge_assets/handlers"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from edge_inference.agent import agent_pb2 as wire
from tests.edge import test_component_process as inference
from tests.edge.local_device import LocalDevice
from tests.edge.local_device import configuration as inference_configuration
from tests.edge.model_folder import make_package, point
from tests.edge.signing import Signer
from tests.edge_agent.agent_models import doubler
from tests.edge_handlers import test_handler_process as handler

SERVICE = "/AWS.SageMaker.Edge.Agent/"
VERBS = ("Predict", "LoadModel", "UnLoadModel", "ListModels", "DescribeModel", "CaptureData", "GetCaptureDataStatus")
LIMIT_S = 30.0


class Agent:
    """A client of raw bytes, so that it can send what no stub would."""

    def __init__(self, socket: Path) -> None:  # the component may come later
        self._channel = grpc.insecure_channel(f"unix:{socket}")

    def call(self, verb: str, request: bytes) -> tuple[str, bytes]:
        """Send any bytes; the status code's name and the answer, within 30 s."""
        stub = self._channel.unary_unary(SERVICE + verb)
        try:
            return "OK", stub(request, timeout=LIMIT_S, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code().name, b""

    def predict(self, values: Any) -> Any:
        """Double a matrix by the model m; its values in a row, or the status code's name."""
        tensor = wire.Tensor(
            tensor_metadata=wire.TensorMetadata(name="x", data_type=wire.FLOAT32, shape=values.shape),
            byte_data=values.tobytes(),
        )
        code, answer = self.call("Predict", wire.PredictRequest(name="m", tensors=[tensor]).SerializeToString())
        if code != "OK":
            return code
        return np.frombuffer(wire.PredictResponse.FromString(answer).tensors[0].byte_data, "<f4").tolist()


def rss_mb(pid: int) -> float:
    """Resident memory of a process, MB."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def inference_faults(folder: Path, kills: int, messages: int, chance: random.Random) -> dict[str, Any]:
    """Malformed calls, bad model updates, kill -9, with the agent switched on and signatures required."""
    signer = Signer()
    config = {
        **inference_configuration(),
        "signingKey": signer.public_key,
        "agent": {"socket": str(folder / "a.sock")},
    }
    report: dict[str, Any] = {}
    with LocalDevice(folder / "ipc.sock", config) as device:
        component = inference.Component(folder, device)
        try:
            good = signer.sign_package(make_package(folder / "good", "1.0.0"))
            point(component.pointer, good)
            device.wait_for_subscription()
            component.wait_for_log("model digits 1.0.0 in use")
            model = signer.sign_package(doubler(folder / "m"))
            load = wire.LoadModelRequest(url=str(model), name="m").SerializeToString()
            agent = Agent(folder / "a.sock")
            report["malformed agent calls"] = _fuzz_agent(agent, load, messages, chance, component)
            report["malformed MQTT requests"] = _fuzz_mqtt(device, messages, chance, component)
            report["bad model updates"] = _bad_updates(folder, device, component, signer)
            report["kill -9 of the component"] = _kill_component(device, component, agent, load, kills, chance)
        finally:
            component.process.kill()
            component.process.wait(10)
    return report


def _fuzz_agent(agent: Agent, load: bytes, count: int, chance: random.Random, component: Any) -> dict[str, Any]:
    agent.call("LoadModel", load)
    x = np.ones((2, 3), np.float32)
    predict = wire.PredictRequest(name="m", tensors=[wire.Tensor(byte_data=x.tobytes())]).SerializeToString()
    assert agent.predict(x) == [2.0] * 6
    before, codes = rss_mb(component.process.pid), dict[str, int]()
    for number in range(count):
        valid = chance.choice([load, predict, b"\n\x01m"])
        # A third ends in noise, the others differ from a good call in a few bits.
        data = bytearray(valid + chance.randbytes(chance.choice([0, 0, chance.randrange(40)])))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        code, _ = agent.call(VERBS[number % len(VERBS)], bytes(data))
        codes[code] = codes.get(code, 0) + 1
    agent.call("LoadModel", load)
    served = agent.predict(x) == [2.0] * 6
    after = rss_mb(component.process.pid)
    return {"sent": count, "codes": codes, "served after": served, "rss_mb": [round(before, 1), round(after, 1)]}


def _fuzz_mqtt(device: LocalDevice, count: int, chance: random.Random, component: Any) -> dict[str, Any]:
    before, answered, without_error = rss_mb(component.process.pid), 0, 0
    for _ in range(count):
        data = bytearray(json.dumps({"request_id": "x", "index": chance.randrange(1 << 20)}).encode())
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        device.send(bytes(data))
        try:
            without_error += "error" not in device.answer(LIMIT_S)
            answered += 1
        except queue.Empty:
            # A request that names another device is for that one.
            continue
    device.send({"index": 1})
    return {
        "sent": count,
        "answered": answered,
        "of them predictions": without_error,
        "served after": "label" in device.answer(LIMIT_S),
        "rss_mb": [round(before, 1), round(rss_mb(component.process.pid), 1)],
    }


def _bad_updates(folder: Path, device: LocalDevice, component: Any, signer: Signer) -> dict[str, Any]:
    def changed_model(package: Path) -> None:
        (package / "model.onnx").write_bytes(b"x" + (package / "model.onnx").read_bytes()[1:])

    def truncated(package: Path) -> None:
        (package / "model.onnx").write_bytes((package / "model.onnx").read_bytes()[:100])

    damages: dict[str, tuple[Callable[[Path], object], str]] = {
        "unsigned": (lambda package: (package / "manifest.sig").unlink(), "is missing: this device takes signed"),
        "another key": (Signer().sign_package, "must be made by the signing key"),
        "changed manifest": (lambda package: (package / "manifest.json").open("a").write(" "), "must be made by"),
        "changed model": (changed_model, "must have the SHA-256"),
        "truncated model": (truncated, "bytes, got 100"),
    }
    outcomes = {}
    for number, (name, (damage, reason)) in enumerate(damages.items()):
        package = signer.sign_package(make_package(folder / f"bad-{number}", f"2.{number}.0"))
        damage(package)
        point(component.pointer, package)
        component.wait_for_log(f"{package}")
        component.wait_for_log(reason)
        device.send({"index": 1})
        outcomes[name] = {"served by": device.answer(LIMIT_S)["model"]["version"], "reason in the log": True}
    point(component.pointer, signer.sign_package(make_package(folder / "next", "3.0.0")))
    component.wait_for_log("model digits 3.0.0 in use")
    return outcomes


def _kill_component(
    device: LocalDevice, component: Any, agent: Agent, load: bytes, kills: int, chance: random.Random
) -> dict[str, Any]:
    recovered, slowest = 0, 0.0
    x = np.ones((1, 3), np.float32)
    for _ in range(kills):
        time.sleep(chance.random() * 0.3)
        component.process.kill()
        component.process.wait(10)
        device.restart()
        while not device.answers.empty():
            device.answers.get_nowait()
        started = time.monotonic()
        component.process = component._start()
        device.wait_for_subscription()
        device.send({"index": 1})
        mqtt = "label" in device.answer(LIMIT_S)
        agent.call("LoadModel", load)
        recovered += mqtt and agent.predict(x) == [2.0] * 3
        slowest = max(slowest, time.monotonic() - started)
    return {"kills": kills, "served again by MQTT and gRPC": recovered, "slowest_s": round(slowest, 2)}


def handler_faults(folder: Path, kills: int, messages: int, chance: random.Random) -> dict[str, Any]:
    """Malformed events and kill -9 of a V1 function's process."""
    config = handler.configuration(timeoutSeconds=5, queueSize=10_000)  # nothing is to be dropped here
    with handler.Component(folder, handler.FUNCTIONS, config) as component:
        component.device.wait_for_subscription(handler.IN)
        component.ask(do="state")
        before = rss_mb(component.process.pid)
        for _ in range(messages):
            component.device.send(chance.randbytes(chance.randrange(200)), handler.IN)
            time.sleep(0.001)
        served = "events" in component.ask(do="state")
        arrived: set[int] = set()
        slowest, started_again = 0.0, 0
        for number in range(kills):
            started = time.monotonic()
            answer = component.ask(do="state")
            while "pid" not in answer:
                arrived.add(answer["number"])  # late ones of the function before
                answer = component.device.answer(LIMIT_S)
            pid = answer["pid"]
            started_again += 1
            slowest = max(slowest, time.monotonic() - started)
            component.device.send({"do": "burst", "first": number * 1000, "count": 1000}, handler.IN)
            time.sleep(0.01 + chance.random() * 0.05)
            os.kill(pid, signal.SIGKILL)
            arrived |= _numbers(component.device)
        after = rss_mb(component.process.pid)
        acknowledged = set(map(int, re.findall(r"acknowledged (\d+)\.", component.log.read_text())))
    return {
        "malformed events": {"sent": messages, "served after": served},
        "kill -9 of the function": {
            "kills": kills,
            "served again": started_again,
            "slowest_s": round(slowest, 2),
            "publications acknowledged": len(acknowledged),
            "of them lost": len(acknowledged - arrived),
        },
        "rss_mb": [round(before, 1), round(after, 1)],
    }


def _numbers(device: LocalDevice) -> set[int]:
    """What a killed function published: all that arrives until half a second passes without a message."""
    found: set[int] = set()
    while True:
        try:
            found.add(device.answer(0.5).get("number", -1))
        except queue.Empty:
            return found


def main() -> None:
    """Run the faults and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--only", choices=("inference", "handler"), help="one part of it (default: both)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)  # noqa: S311 - to be repeated, not to be secret
    report: dict[str, Any] = {"kills": options.kills, "messages": options.messages, "seed": options.seed}
    parts = {"inference": inference_faults, "handler": handler_faults}
    for name, faults in parts.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as temporary:
            started = time.monotonic()
            report[name] = faults(Path(temporary), options.kills, options.messages, chance)
            report[name]["seconds"] = round(time.monotonic() - started, 1)
    json.dump(report, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
