"""The bytes on the wire, written by hand from the protocol's field numbers: a client's stubs are not ours."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edge_inference.agent import agent_pb2 as wire
from tests.edge_agent.conftest import PROTO


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def whole(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def data(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


METADATA = data(1, b"x") + whole(2, 5) + data(3, varint(1) + varint(3))
TENSOR = data(1, METADATA) + data(4, struct.pack("<3f", 1, 2, 3))
MODEL = data(1, b"/m") + data(2, b"n") + data(3, METADATA) + data(4, METADATA)
SHARED = whole(1, 12) + whole(2, 4) + whole(3, 7)
STAMP = whole(1, 5) + whole(2, 6)
AUXILIARY = data(1, b"a") + whole(2, 3) + data(3, b"b")

MESSAGES: dict[str, tuple[bytes, dict[str, object]]] = {
    "PredictRequest": (data(1, b"n") + data(2, TENSOR), {"name": "n"}),
    "PredictResponse": (data(1, TENSOR), {}),
    "LoadModelRequest": (data(1, b"/m") + data(2, b"n"), {"url": "/m", "name": "n"}),
    "LoadModelResponse": (data(1, MODEL), {}),
    "UnLoadModelRequest": (data(1, b"n"), {"name": "n"}),
    "ListModelsResponse": (data(1, MODEL) * 2, {}),
    "DescribeModelRequest": (data(1, b"n"), {"name": "n"}),
    "DescribeModelResponse": (data(1, MODEL), {}),
    "Tensor": (data(5, SHARED), {}),
    "AuxilaryData": (data(1, b"a") + data(4, SHARED), {"name": "a"}),
    "CaptureDataRequest": (
        data(1, b"m")
        + data(2, b"i")
        + data(3, STAMP)
        + data(4, TENSOR)
        + data(5, TENSOR)
        + data(6, AUXILIARY)
        + data(7, AUXILIARY),
        {"model_name": "m", "capture_id": "i"},
    ),
    "GetCaptureDataStatusRequest": (data(1, b"i"), {"capture_id": "i"}),
    "GetCaptureDataStatusResponse": (whole(1, 3), {"status": 3}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message_has_the_documented_field_numbers(name: str) -> None:
    raw, values = MESSAGES[name]

    message = getattr(wire, name).FromString(raw)

    assert message.SerializeToString(deterministic=True) == raw
    assert {field: getattr(message, field) for field in values} == values
    # Nothing was taken for an unknown field, at any depth.
    message.DiscardUnknownFields()
    assert message.SerializeToString(deterministic=True) == raw


def test_enumerations_have_the_documented_numbers() -> None:
    assert dict(wire.DataType.items()) == {
        "UINT8": 0,
        "INT16": 1,
        "INT32": 2,
        "INT64": 3,
        "FLOAT16": 4,
        "FLOAT32": 5,
        "FLOAT64": 6,
    }
    assert dict(wire.Encoding.items()) == {"CSV": 0, "JSON": 1, "NONE": 2, "BASE64": 3}
    assert dict(wire.CaptureDataStatus.items()) == {"FAILURE": 0, "SUCCESS": 1, "IN_PROGRESS": 2, "NOT_FOUND": 3}


def test_the_generated_module_is_that_of_the_proto(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={tmp_path}", "agent.proto"]
    subprocess.run(command, check=True, timeout=60)

    assert (tmp_path / "agent_pb2.py").read_text() == (PROTO / "agent_pb2.py").read_text()
