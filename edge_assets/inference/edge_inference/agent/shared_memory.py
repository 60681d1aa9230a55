"""Tensors that a client leaves in a System V shared memory segment, instead of copying them into its message."""

import ctypes
import os
from functools import cache

from edge_inference.agent.agent_error import AgentError, Status

SHM_RDONLY = 0o10000
IPC_STAT = 2
FAILED = ctypes.c_void_p(-1).value
#: shmid_ds begins with an ipc_perm of 48 bytes on 64-bit Linux (sys/shm.h); the segment's size follows it.
SIZE_OFFSET = 48
STRUCTURE_BYTES = 256
LARGEST_ID = 2**31 - 1


def read(segment_id: int, offset: int, size: int, limit_bytes: int) -> bytes:
    """Copy a part of a segment.

    Args:
        segment_id: As `shmget` returned it to the client.
        offset: Of the part, in bytes.
        size: Of the part, in bytes.
        limit_bytes: The largest part that is taken.

    Returns:
        The bytes.

    Raises:
        AgentError: INVALID_ARGUMENT: there is no such segment, it may not be read, or the part does not lie in it.
    """
    if size > limit_bytes:
        raise AgentError(Status.INVALID_ARGUMENT, f"a tensor must have at most {limit_bytes} bytes, got {size}")
    if segment_id > LARGEST_ID:
        raise AgentError(Status.INVALID_ARGUMENT, f"segment_id must be one of shmget, got {segment_id}")
    libc = _libc()
    structure = ctypes.create_string_buffer(STRUCTURE_BYTES)
    if libc.shmctl(segment_id, IPC_STAT, structure) != 0:
        raise _refused(segment_id)
    segment_bytes = ctypes.c_size_t.from_buffer(structure, SIZE_OFFSET).value
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
