import ctypes
from collections.abc import Iterator

import pytest

from edge_inference.agent import AgentError, Status, tensors

CONTENT = bytes(range(200))
IPC_CREAT, IPC_RMID = 0o1000, 0


@pytest.fixture
def segment() -> Iterator[int]:
    """A segment as a client makes it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]
    identifier = libc.shmget(0, ctypes.c_size_t(len(CONTENT)), IPC_CREAT | 0o600)
    assert identifier >= 0
    address = libc.shmat(identifier, None, 0)
    ctypes.memmove(address, CONTENT, len(CONTENT))
    libc.shmdt(address)
    yield identifier
    libc.shmctl(identifier, IPC_RMID, None)


def test_reads_a_part_of_a_segment(segment: int) -> None:
    assert tensors.read_segment(segment, 0, 200, 1000) == CONTENT
    assert tensors.read_segment(segment, 50, 10, 1000) == CONTENT[50:60]
    assert tensors.read_segment(segment, 200, 0, 1000) == b""


def test_a_part_without_a_size_is_the_rest_of_its_segment(segment: int) -> None:
    assert tensors.read_segment(segment, 0, 0, 200) == CONTENT
    assert tensors.read_segment(segment, 150, 0, 50) == CONTENT[150:]


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [
        (0, 201, "segment of 200 bytes"),
        (199, 2, "segment of 200 bytes"),
        (2**63, 1, "segment of"),
        (0, 1001, "at most"),
        (201, 0, "segment of 200 bytes"),
    ],
)
def test_reads_nothing_outside_of_the_segment(segment: int, offset: int, size: int, reason: str) -> None:
    with pytest.raises(AgentError, match=reason) as caught:
        tensors.read_segment(segment, offset, size, 1000)

    assert caught.value.status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("identifier", [2**31 - 1, 2**31, 2**63])
def test_names_a_segment_that_is_not_there(identifier: int) -> None:
    with pytest.raises(AgentError, match=str(identifier)):
        tensors.read_segment(identifier, 0, 1, 1000)
