"""A camera on loopback that misbehaves as it is told, for tests and benchmarks."""

import io
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

#: What it can do instead of what it should.
FAULTS = (
    "stall",
    "cut",
    "garbage",
    "garbage-frames",
    "no-boundary",
    "drip",
    "huge",
    "headers",
    "unavailable",
    "hangs-up",
    "not-a-picture",
)
BOUNDARY = b"frame"


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


class RogueCamera:
    """Sends MJPEG, or whatever `mode` says; changing it makes connections that stall or drip go on.

    Args:
        frames: What it sends, in turn; pictures of several sizes by default.
        fps: How many frames a second.
        context: For TLS.
    """

    def __init__(
        self, frames: list[bytes] | None = None, fps: float = 20, context: ssl.SSLContext | None = None
    ) -> None:
        self.frames = frames or [jpeg(64, 48, 1), jpeg(8, 8, 2), jpeg(320, 240, 3)]
        self.mode = "mjpeg"
        self.sent = 0
        self.requests: list[bytes] = []
        #: Sent in place of the first answers, whole.
        self.answers: list[bytes] = []
        self._fps = fps
        self._context = context
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/video?token=tkn123"
        self._random = random.Random(20)  # noqa: S311 - the same at each run

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            connection.settimeout(60)
            with connection, connection.makefile("rb") as stream:
                while (request := self._read(stream)) and not self._ended.is_set():
                    self.requests.append(request)
                    if self.answers:
                        connection.sendall(self.answers.pop(0))
                        continue
                    if not self._answer(connection):
                        return

    def _read(self, stream: io.BufferedReader) -> bytes:
        lines = []
        while (line := stream.readline(65536)).strip():
            lines.append(line)
        return b"".join(lines)

    def _frame(self) -> bytes:
        frame = self.frames[self.sent % len(self.frames)]
        self.sent += 1
        return frame

    def _part(self, *, length: bool = True) -> bytes:
        frame = self._frame()
        size = b"Content-Length: %d\r\n" % len(frame) if length else b""
        return b"--%s\r\nContent-Type: image/jpeg\r\n%s\r\n%s\r\n" % (BOUNDARY, size, frame)

    def _answer(self, connection: socket.socket) -> bool:
        """Returns whether the connection may be asked again."""
        mode = self.mode
        head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=%s\r\n\r\n" % BOUNDARY
        if mode == "jpeg":
            frame = self._frame()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(frame)
            )
            connection.sendall(frame)
            return True
        if mode == "hangs-up":
            return False
        if mode == "unavailable":
            connection.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n")
            return False
        if mode == "not-a-picture":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p>x")
            return False
        if mode == "garbage":
            connection.sendall(self._random.randbytes(5000))
            return False
        if mode == "headers":
            for number in range(100_000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
            return False
        if mode == "huge":
            connection.sendall(head + b"--frame\r\nContent-Length: 9999999999\r\n\r\n" + bytes(1 << 20))
            return False
        if mode == "no-boundary":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace\r\n\r\n")
            for _ in self._while(mode, 0.001):
                connection.sendall(b"\xff" * 10_000)
            return False
        connection.sendall(head)
        while not self._ended.is_set():
            if not self._send_part(connection):
                return False
            time.sleep(1 / self._fps)
        return False

    def _send_part(self, connection: socket.socket) -> bool:
        mode, part = self.mode, self._part(length=self.mode != "no-length")
        half = len(part) // 2
        if mode == "cut":
            connection.sendall(part[:half])
            return False
        if mode == "garbage-frames":
            noise = self._random.randbytes(self._random.randrange(0, 3000))
            connection.sendall(b"--frame\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(noise), noise))
            return True
        if mode in ("stall", "drip"):
            connection.sendall(part[:half])
            for _ in self._while(mode, 0.05 if mode == "stall" else 1):
                if mode == "drip":
                    connection.sendall(part[half : half + 1])
                    half += 1
            connection.sendall(part[half:])
            return True
        # Every other fault begins with a connection.
        if mode not in ("mjpeg", "no-length"):
            return False
        connection.sendall(part)
        return True

    def _while(self, mode: str, every_s: float) -> Iterator[None]:
        due = time.monotonic()
        while self.mode == mode and not self._ended.is_set():
            if time.monotonic() >= due:
                due += every_s
                yield
            time.sleep(min(every_s, 0.02))
