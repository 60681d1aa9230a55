"""Tensors on the wire, in memory, and in the shared memory that a client leaves them in."""

import ctypes
import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.agent import AgentError, Status
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.models import TensorSpec

SHM_RDONLY = 0o10000
IPC_STAT = 2
FAILED = ctypes.c_void_p(-1).value
#: shmid_ds begins with an ipc_perm of 48 bytes on 64-bit Linux (sys/shm.h); the segment's size follows it.
SIZE_OFFSET = 48
STRUCTURE_BYTES = 256
LARGEST_ID = 2**31 - 1
#: The wire's DataType to the element type; the wire is little-endian.
ELEMENTS: dict[int, np.dtype[Any]] = {
    wire.UINT8: np.dtype(np.uint8),
    wire.INT16: np.dtype(np.int16),
    wire.INT32: np.dtype(np.int32),
    wire.INT64: np.dtype(np.int64),
    wire.FLOAT16: np.dtype(np.float16),
    wire.FLOAT32: np.dtype(np.float32),
    wire.FLOAT64: np.dtype(np.float64),
}
DATA_TYPES = {element: number for number, element in ELEMENTS.items()}
ANY_SIZE = -1


def read_segment(segment_id: int, offset: int, size: int, limit_bytes: int) -> bytes:
    """Copy a part of a segment.

    Args:
        segment_id: As `shmget` returned it to the client.
        offset: Of the part, in bytes.
        size: Of the part, in bytes; 0 for all that follows the offset.
        limit_bytes: The largest part that is taken.

    Returns:
        The bytes.

    Raises:
        AgentError: INVALID_ARGUMENT: there is no such segment, it may not be read, or the part does not lie in it.
    """
    if segment_id > LARGEST_ID:
        raise AgentError(Status.INVALID_ARGUMENT, f"segment_id must be one of shmget, got {segment_id}")
    libc = _libc()
    structure = ctypes.create_string_buffer(STRUCTURE_BYTES)
    if libc.shmctl(segment_id, IPC_STAT, structure) != 0:
        raise _refused(segment_id)
    segment_bytes = ctypes.c_size_t.from_buffer(structure, SIZE_OFFSET).value
    size = size or max(segment_bytes - offset, 0)
    if size > limit_bytes:
        raise AgentError(Status.INVALID_ARGUMENT, f"a tensor must have at most {limit_bytes} bytes, got {size}")
    if offset + size > segment_bytes:
        raise AgentError(
            Status.INVALID_ARGUMENT,
            f"a tensor must lie in its segment of {segment_bytes} bytes, got {size} bytes from {offset} on",
        )
    address = libc.shmat(segment_id, None, SHM_RDONLY)
    if address == FAILED:
        raise _refused(segment_id)
    try:
        return ctypes.string_at(address + offset, size)
    finally:
        libc.shmdt(address)


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    libc.shmdt.argtypes = [ctypes.c_void_p]
    libc.shmctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return libc


def _refused(segment_id: int) -> AgentError:
    reason = os.strerror(ctypes.get_errno())
    return AgentError(Status.INVALID_ARGUMENT, f"shared memory segment {segment_id} cannot be read: {reason}")


def metadata(spec: TensorSpec) -> Any:
    """Describe an input or output; a free size is -1, and a shape that nobody knows is left out."""
    shape = [ANY_SIZE if size is None else size for size in spec.shape or ()]
    return wire.TensorMetadata(name=spec.name, data_type=DATA_TYPES[spec.dtype], shape=shape)


def encode(spec: TensorSpec, values: NDArray[Any]) -> Any:
    """Write an output."""
    described = wire.TensorMetadata(name=spec.name, data_type=DATA_TYPES[spec.dtype], shape=values.shape)
    return wire.Tensor(tensor_metadata=described, byte_data=np.ascontiguousarray(values).tobytes())


def decode(tensors: Sequence[Any], inputs: Sequence[TensorSpec], limit_bytes: int) -> dict[str, NDArray[Any]]:
    """Read a request's tensors.

    Args:
        tensors: As they came; one without metadata, or without a name in it, stands for the input at its place.
        inputs: What the model takes.
        limit_bytes: The largest tensor that is taken.

    Returns:
        Input name to tensor.

    Raises:
        AgentError: INVALID_ARGUMENT: a tensor is missing, unknown or twice there, or has another type, shape or length.
    """
    if len(tensors) != len(inputs):
        raise _wrong(f"the model takes {len(inputs)} tensors ({_names(inputs)}), got {len(tensors)}")
    by_name = {spec.name: spec for spec in inputs}
    values: dict[str, NDArray[Any]] = {}
    for place, tensor in zip(inputs, tensors, strict=True):
        name = tensor.tensor_metadata.name or place.name
        if name not in by_name:
            raise _wrong(f"a tensor's name must be one of {_names(inputs)}, got {name[:100]!r}")
        if name in values:
            raise _wrong(f"each tensor must be there once, got {name} twice")
        values[name] = _array(tensor, by_name[name], limit_bytes)
    return values


def content(data: Any, limit_bytes: int) -> bytes:
    """Take the bytes of a tensor or of auxiliary data, from the message or from shared memory.

    Raises:
        AgentError: INVALID_ARGUMENT: they cannot be read.
    """
    if data.WhichOneof("data") == "shared_memory_handle":
        handle = data.shared_memory_handle
        return read_segment(handle.segment_id, handle.offset, handle.size, limit_bytes)
    inline: bytes = data.byte_data
    return inline


def written_shape(described: Any, length: int) -> list[int]:
    """The sizes of a tensor that is written down as it came, one that follows from its length worked out.

    Args:
        described: Its metadata.
        length: Of its data, bytes.

    Raises:
        AgentError: INVALID_ARGUMENT: more than one size is -1, or the length does not fit.
    """
    shape: list[int] = list(described.shape)
    element = ELEMENTS.get(described.data_type)
    if ANY_SIZE not in shape or element is None:
        return shape
    sizes = tuple(None if size == ANY_SIZE else size for size in shape)
    return list(_filled(TensorSpec(described.name or "a tensor", element, sizes), sizes, length))


def _array(tensor: Any, spec: TensorSpec, limit_bytes: int) -> NDArray[Any]:
    raw = content(tensor, limit_bytes)
    sizes = spec.shape
    if tensor.HasField("tensor_metadata"):
        described = tensor.tensor_metadata
        if ELEMENTS.get(described.data_type) != spec.dtype:
            known = wire.DataType.Name(described.data_type) if described.data_type in ELEMENTS else "an unknown one"
            raise _wrong(f"{spec.name}: data_type must be {wire.DataType.Name(DATA_TYPES[spec.dtype])}, got {known}")
        if described.shape:
            sizes = _given(spec, tuple(described.shape))
    shape = _filled(spec, sizes, len(raw))
    expected = math.prod(shape) * spec.dtype.itemsize
    if len(raw) != expected:
        raise _wrong(f"{spec.name}: {list(shape)} of {spec.dtype.name} must have {expected} bytes, got {len(raw)}")
    # The wire is little-endian, whatever this machine is.
    return np.frombuffer(raw, spec.dtype.newbyteorder("<")).astype(spec.dtype, copy=False).reshape(shape)


def _given(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """The sizes that a client gives; -1, as the model's description has it, for one that follows from the length."""
    own = (None,) * len(shape) if spec.shape is None else spec.shape
    fits = len(shape) == len(own) and all(
        size == ANY_SIZE or (size >= 0 and wanted in (size, None)) for size, wanted in zip(shape, own, strict=True)
    )
    if not fits:
        raise _wrong(f"{spec.name}: shape must be {_shown(spec)}, got {list(shape)[:16]}")
    return tuple(wanted if size == ANY_SIZE else size for size, wanted in zip(shape, own, strict=True))


def _filled(spec: TensorSpec, sizes: tuple[int | None, ...] | None, length: int) -> tuple[int, ...]:
    """Find the one free size, such as the batch, from the length."""
    if sizes is None and length == spec.dtype.itemsize:
        return ()
    if sizes is None or sizes.count(None) > 1:
        raise _wrong(f"{spec.name}: a tensor of shape {_shown(spec)} must come with its sizes, all but one")
    step = math.prod(size for size in sizes if size is not None) * spec.dtype.itemsize
    if None in sizes and (step == 0 or length % step):
        raise _wrong(
            f"{spec.name}: {_shown(spec)} of {spec.dtype.name} must have a multiple of {step} bytes, got {length}"
        )
    return tuple(length // step if size is None else size for size in sizes)


def _shown(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "[any …]"
    return "[" + ", ".join("any" if size is None else str(size) for size in spec.shape) + "]"


def _names(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in inputs)


def _wrong(message: str) -> AgentError:
    return AgentError(Status.INVALID_ARGUMENT, message)
