"""Payloads that wait for the cloud, in memory that goes back to the system."""

from __future__ import annotations

from collections import deque

PIECE_BYTES = 512 << 10
"""Above the size from which the allocator asks the system for each piece by itself (`twin.process.ALLOCATOR`)."""


class Backlog:
    """Payloads of at most 128 KiB, first in, first out.

    As objects between others, those of a crowd would leave holes all over the heap: the device would stay larger by
    megabytes for good.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytearray] = deque()
        self._taken = self._put = 0  # bytes of the first piece, and of the last one

    def put(self, payload: bytes) -> None:
        """Add a payload behind the others."""
        if not payload:
            return
        if not self._pieces or self._put + len(payload) > PIECE_BYTES:
            if self._pieces:
                del self._pieces[-1][self._put :]
            self._pieces.append(bytearray(PIECE_BYTES))
            self._put = 0
        end = self._put + len(payload)
        self._pieces[-1][self._put : end] = payload
        self._put = end

    def take(self, length: int) -> bytes:
        """Take the first payload out.

        Args:
            length: Of what was put.
        """
        if not length:
            return b""
        first = self._pieces[0]
        begun, self._taken = self._taken, self._taken + length
        payload = bytes(memoryview(first)[begun : self._taken])
        if self._taken == (self._put if len(self._pieces) == 1 else len(first)):
            self._pieces.popleft()
            self._taken = 0
        return payload
