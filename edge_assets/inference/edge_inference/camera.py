"""A camera as a source of pictures: read in a thread of its own, and only the newest frame counts."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import SplitResult, urlsplit

from edge_component import BackOff
from edge_component.settings import Kind
from edge_inference.messages import now

log = logging.getLogger(__name__)

ADDRESS_BYTES = 1024
PORTS = {"http": 80, "https": 443}
PICTURE = b"\xff\xd8\xff"
#: Soon enough for a camera that comes back to be seen within two seconds, even where the first attempt is too early.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 0.7
#: A camera whose problems change with each frame must not fill the log.
LOG_EVERY_S = 10.0
#: Many cameras lock a user out after a few wrong passwords.
FIRST_REFUSED_PAUSE_S, LONGEST_REFUSED_PAUSE_S = 5.0, 60.0
#: What an outage leaves in the slot is no picture of now.
STALE_S = 5.0
PROBLEM_CHARACTERS = 300
_PRINTABLE = re.compile(r"[!-~]+")


class CameraError(Exception):
    """A camera gives no frame; the text holds neither its credentials nor its address's path or query."""


class CameraRefusalError(CameraError):
    """The camera refuses, and will refuse again until somebody changes something."""


class Secret:
    """A text that is never shown: not in a message, not in a settings object, not in a traceback."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "a secret"


NO_SECRET = Secret("")


def _check_address(where: str, value: Any, mistakes: list[str]) -> Any:
    """Check an address; what is wrong with it is told without it, since passwords are put into addresses."""
    if value == "":
        return value
    rule = f"{where} must be an address such as http://camera.local/video.mjpg"
    if not isinstance(value, str) or not _PRINTABLE.fullmatch(value) or len(value) > ADDRESS_BYTES:
        mistakes.append(f"{rule}, of at most {ADDRESS_BYTES} ASCII characters without spaces, got something else")
        return ""
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        mistakes.append(f"{rule}, got one whose host or port cannot be read")
        return ""
    if "@" in parts.netloc:
        mistakes.append(
            f"{where} must hold no user and no password, which addresses bring into logs: move them to cameraUser and "
            "cameraPasswordFile"
        )
    elif parts.scheme not in PORTS:
        mistakes.append(f"{rule}: its scheme must be http or https, got {parts.scheme[:20] or 'none'}")
    elif not host or port == 0:
        mistakes.append(f"{rule}: it must name a host, and a port from 1 to 65535 or none")
    return value


def _check_secret(where: str, value: Any, mistakes: list[str]) -> Secret:
    if not isinstance(value, str) or len(value) > ADDRESS_BYTES or any(each in value for each in "\r\n\0"):
        mistakes.append(f"{where} must be a text of at most {ADDRESS_BYTES} characters in one line")
        return NO_SECRET
    return Secret(value)


ADDRESS = Kind("an address, http or https", _check_address)
SECRET = Kind("a text, which is never shown", _check_secret)


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Args:
        address: Checked by `ADDRESS`.
        user: For who logs in; empty for nobody.
        password: Its password.
        password_file: File whose first line is the password, in place of that; read at each connection.
        certificates: File with the certificates to trust in place of the system's; empty for those.
        every_s: From one frame that is handed on to the next, at least.
        timeout_s: Within which a camera answers, and each frame arrives whole.
    """

    address: str = field(repr=False)
    user: str = ""
    password: Secret = NO_SECRET
    password_file: str = ""
    certificates: str = ""
    every_s: float = 1.0
    timeout_s: float = 5.0

    @property
    def shown(self) -> str:
        """The address for people: paths and queries of cameras hold tokens."""
        return shown(urlsplit(self.address))


def shown(parts: SplitResult) -> str:
    """Scheme, host and port of an address."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or PORTS[parts.scheme]}"


@dataclass(frozen=True)
class Frame:
    """A picture of a camera.

    Args:
        data: A JPEG, as far as its first bytes tell.
        name: When it arrived, for people.
        at: The same, in monotonic seconds.
    """

    data: bytes = field(repr=False)
    name: str
    at: float


class Frames(Protocol):
    """A connection to a camera."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield frame after frame.

        Raises:
            CameraError: The connection has ended, whatever the reason.
        """
        ...

    def close(self) -> None:
        """End it; from any thread."""
        ...


class Camera:
    """Reads a camera, and keeps the newest frame.

    Of the frames that come while nobody has time, the newest is kept and the others are let go: nothing queues.

    Args:
        source: Where it is.
        on_frame: Called, from the camera's thread, when there is a frame to take, not more often than the source says
            and not again before that one was taken.
        connect: Makes a connection with the first frame that is asked for, of the source and of what waits for so many
            seconds, less when the camera is closed.
    """

    def __init__(
        self,
        source: Source,
        on_frame: Callable[["Camera"], None],
        connect: Callable[[Source, Callable[[float], object]], Frames],
    ) -> None:
        self.source = source
        self._on_frame = on_frame
        self._connect = connect
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._newest: Frame | None = None
        self._pending = False
        self._due = 0.0
        self._last: float | None = None
        self._frames: Frames | None = None
        self._received = self._broken = self._connections = 0
        self._problem = self._logged = ""
        self._log_at = 0.0

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="camera", daemon=True).start()

    def close(self) -> None:
        """Read no more; does not wait for the thread."""
        self._ended.set()
        with self._lock:
            frames = self._frames
        if frames is not None:
            frames.close()

    def take(self) -> Frame | None:
        """Take the newest frame.

        Returns:
            None where it is older than 5 s: the camera is gone meanwhile.
        """
        with self._lock:
            self._pending = False
            frame, self._newest = self._newest, None
        return frame if frame is not None and time.monotonic() - frame.at < STALE_S else None

    def reject(self, reason: str) -> None:
        """Note that a frame turned out to be no picture, of which `reason` says why."""
        with self._lock:
            self._broken += 1
        self._has(f"a frame is no picture: {reason}")

    def state(self) -> dict[str, object]:
        """What a heartbeat says of it: frames, those of no use, connections, seconds since the last frame, problem."""
        with self._lock:
            age_s = {} if self._last is None else {"age_s": round(time.monotonic() - self._last, 1)}
            found: dict[str, object] = {
                "frames": self._received,
                "broken": self._broken,
                "connections": self._connections,
                **age_s,
            }
            return found | ({"problem": self._problem} if self._problem else {})

    def _run(self) -> None:
        quick = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        slow = BackOff(FIRST_REFUSED_PAUSE_S, LONGEST_REFUSED_PAUSE_S)
        while not self._ended.is_set():
            frames = self._connect(self.source, self._ended.wait)
            with self._lock:
                self._frames = frames
                self._connections += 1
            pause_s = 0.0
            try:
                for data in frames:
                    if self._ended.is_set():
                        break
                    if self._keep(data):
                        quick.reset()
                        slow.reset()
            except CameraRefusalError as exc:
                pause_s = slow.pause_s()
                self._has(str(exc))
            except CameraError as exc:
                self._has(str(exc))
            except Exception as exc:
                # Whatever it sends, it is asked again.
                if self._has(f"reading it failed: {type(exc).__name__}"):
                    log.exception("camera %s", self.source.shown)
            finally:
                frames.close()
            self._ended.wait(pause_s or quick.pause_s())

    def _keep(self, data: bytes) -> bool:
        if not data.startswith(PICTURE):
            with self._lock:
                self._broken += 1
            self._has("a frame must be a JPEG, got bytes that begin otherwise")
            return False
        moment = time.monotonic()
        with self._lock:
            self._newest = Frame(data, f"camera {now()}", moment)
            self._last = moment
            self._received += 1
            is_due = not self._pending and moment >= self._due
            if is_due:
                self._pending = True
                # From when it was due, so that the rate is kept on average; never to catch up.
                self._due = max(self._due + self.source.every_s, moment)
            self._problem = ""
            recovered, self._logged = self._logged, ""
        if recovered:
            log.info("camera %s: frames again", self.source.shown)
        if is_due:
            self._on_frame(self)
        return True

    def _has(self, problem: str) -> bool:
        """Note a problem, and log it where it is another one than before; returns whether it was logged."""
        moment = time.monotonic()
        with self._lock:
            self._problem = problem[:PROBLEM_CHARACTERS]
            is_news = problem != self._logged and moment >= self._log_at and not self._ended.is_set()
            if is_news:
                self._logged, self._log_at = problem, moment + LOG_EVERY_S
        if is_news:
            log.warning("camera %s: %s", self.source.shown, problem)
        return is_news
