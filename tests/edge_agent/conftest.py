import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.edge.model_folder import ROOT

PROTO = ROOT / "edge_assets" / "inference" / "edge_inference" / "agent"


class RefusedError(Exception):
    """A call that ended with a status code."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code


class Client:
    """Drives the customer's program."""

    def __init__(self, stubs: Path, socket: Path) -> None:
        program = Path(__file__).with_name("client.py")
        self._process = subprocess.Popen(
            [sys.executable, program, stubs, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, verb: str, **request: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"verb": verb, "request": request}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "code" in answer:
            raise RefusedError(answer["code"], answer["details"])
        return answer["response"]

    def predict(self, name: str, *tensors: dict[str, Any]) -> list[Any]:
        answer = self.call("Predict", name=name, tensors=list(tensors))
        return [array(tensor) for tensor in answer["tensors"]]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


TYPES = {
    "UINT8": "u1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FLOAT16": "<f2",
    "FLOAT32": "<f4",
    "FLOAT64": "<f8",
}
NAMES = {np.dtype(text): name for name, text in TYPES.items()}


def tensor(values: Any, name: str = "", **metadata: Any) -> dict[str, Any]:
    """A tensor with its metadata."""
    data = np.asarray(values)
    described = {"name": name, "data_type": NAMES[data.dtype], "shape": list(data.shape), **metadata}
    return {"tensor_metadata": described, "byte_data": base64.b64encode(data.tobytes()).decode()}


def array(message: dict[str, Any]) -> Any:
    described = message["tensor_metadata"]
    raw = base64.b64decode(message.get("byte_data", ""))
    return np.frombuffer(raw, TYPES[described.get("data_type", "UINT8")]).reshape(described.get("shape", []))


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}"]
    command += [f"--python_out={folder}", f"--grpc_python_out={folder}", "agent.proto"]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture
def connect(stubs: Path) -> Iterator[Callable[[Path], Client]]:
    clients: list[Client] = []

    def make(socket: Path) -> Client:
        clients.append(Client(stubs, socket))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
