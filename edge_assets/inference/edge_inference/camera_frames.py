"""Frames of an IP camera over HTTP or HTTPS: a JPEG with each answer, or MJPEG, one after the other in a single one."""

import base64
import contextlib
import hashlib
import http.client
import io
import logging
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

from edge_inference.camera import PORTS, CameraError, CameraRefusalError, Source
from edge_inference.files import PICTURE_BYTES

log = logging.getLogger(__name__)

READ_BYTES = 64 << 10
#: Of an answer's headers, of a part's, and of what comes before the first part.
HEADER_BYTES, PART_HEADER_BYTES, PREAMBLE_BYTES = 64 << 10, 8 << 10, 64 << 10
PASSWORD_BYTES = 1024
#: A login, another one for a nonce that has run out, and redirections.
ATTEMPTS = 6
REDIRECTIONS = (301, 302, 303, 307, 308)
#: Common things that an address leads to by mistake; what else a camera writes is not repeated.
KNOWN_TYPES = ("text/html", "text/plain", "application/json", "image/png", "image/gif", "image/webp", "video/mp4")
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,10})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_UNQUOTABLE = re.compile(r'[\x00-\x1f"\\]')
_HASHES: Mapping[str, Callable[[bytes], Any]] = {
    "MD5": partial(hashlib.md5, usedforsecurity=False),
    "SHA-256": hashlib.sha256,
}


class HttpFrames:
    """A connection to a camera; see `Frames`.

    Args:
        source: The camera.
        pause: Waits between two answers of one JPEG each.
    """

    def __init__(self, source: Source, pause: Callable[[float], object]) -> None:
        self._source = source
        self._pause = pause
        self._connection: _Connection | None = None
        self._login: _Login | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            response = self._open()
            while True:
                # One that gave single pictures may stream from now on, as after a change of its settings.
                if response.headers.get_content_type().startswith("multipart/"):
                    yield from _Parts(response, self._source.timeout_s)
                started = time.monotonic()
                yield _picture(response, self._source.timeout_s)
                if not response.isclosed():
                    self.close()
                self._pause(max(started + self._source.every_s - time.monotonic(), 0))
                response = self._open()
        except CameraError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a camera sends, told without its words
            raise CameraError(_said(exc, self._source)) from None

    def close(self) -> None:
        """End the connection; a read that waits in another thread ends, too."""
        if self._connection is not None:
            self._connection.end()

    def _open(self) -> "_Response":
        """Ask until the camera gives what was asked for."""
        url, again = urlsplit(self._source.address), None
        for _ in range(ATTEMPTS):
            response = self._ask(url)
            if response.status == http.HTTPStatus.OK:
                return response
            self.close()
            if response.status == http.HTTPStatus.UNAUTHORIZED:
                again = self._challenged(response, again)
            elif response.status in REDIRECTIONS:
                url = _redirected(url, response.headers.get("Location", ""))
            elif 400 <= response.status < 500:
                raise CameraRefusalError(f"it answers with the status {response.status}: is cameraUrl right?")
            else:
                raise CameraError(f"it answers with the status {response.status}")
        raise CameraRefusalError(f"it gives nothing after {ATTEMPTS} questions: logins or redirections go in a circle")

    def _ask(self, url: SplitResult) -> "_Response":
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {"Accept": "multipart/x-mixed-replace, image/jpeg", "User-Agent": "edgewright"}
        kept = self._connection
        if kept is not None and kept.is_open_to(url):
            try:
                return kept.ask(path, {**headers, **self._authorization(path)})
            except (ConnectionError, http.client.BadStatusLine):
                # It was left open too long for the camera.
                kept.end()
        self._connection = _Connection(url, self._source)
        return self._connection.ask(path, {**headers, **self._authorization(path)})

    def _authorization(self, path: str) -> dict[str, str | bytes]:
        return {} if self._login is None else {"Authorization": self._login.header(path)}

    def _challenged(self, response: "_Response", before: str | None) -> str:
        """Prepare a login as the camera asks for it.

        Args:
            response: Of the status 401.
            before: The nonce of the login that it refuses; None before the first.
        """
        source = self._source
        if not source.user:
            raise CameraRefusalError("it wants a login: set cameraUser, and cameraPasswordFile or cameraPassword")
        challenges = [_challenge(each) for each in response.headers.get_all("WWW-Authenticate") or ()]
        stale = any(values.get("stale", "").lower() == "true" for _, values in challenges)
        if before is not None and not stale:
            raise CameraRefusalError("it refuses the login of cameraUser (status 401)")
        # The first in the order of their strength.
        ranked = sorted((_rank(each), place) for place, each in enumerate(challenges) if _rank(each) is not None)
        if not ranked:
            raise CameraRefusalError("it wants a login that is neither basic nor digest with MD5 or SHA-256")
        scheme, values = challenges[ranked[0][1]]
        if scheme == "basic" and urlsplit(source.address).scheme == "http" and before is None:
            log.warning("camera %s: the password goes over the network readable: use https or digest", source.shown)
        self._login = _Login(source.user, _password(source), scheme, values)
        return values.get("nonce", "")


class _Connection(http.client.HTTPConnection):
    """A connection whose answers have a size and a time, however slowly they drip."""

    def __init__(self, url: SplitResult, source: Source) -> None:
        super().__init__(url.hostname or "", url.port or PORTS[url.scheme], timeout=source.timeout_s)
        self._scheme = url.scheme
        self._certificates = source.certificates
        self._plain: socket.socket | None = None
        self.response_class = partial(_Response, timeout_s=source.timeout_s)  # type: ignore[assignment]

    def connect(self) -> None:
        """Connect, and for https make sure of whom to."""
        sock = socket.create_connection((self.host, self.port), self.timeout)
        self._plain = sock
        if self._scheme == "https":
            sock = self._plain = _trusting(self._certificates).wrap_socket(sock, server_hostname=self.host)
        self.sock = sock

    def is_open_to(self, url: SplitResult) -> bool:
        """Whether it can be asked again, and is to that host."""
        asked = (url.scheme, url.hostname, url.port or PORTS[url.scheme])
        return self.sock is not None and asked == (self._scheme, self.host, self.port)

    def ask(self, path: str, headers: Mapping[str, str | bytes]) -> "_Response":
        """Ask for a path, and read the headers of the answer."""
        if self.sock is not None:
            self.sock.settimeout(self.timeout)
        self.request("GET", path, headers=headers)
        response: Any = self.getresponse()
        found: _Response = response
        return found

    def end(self) -> None:
        """Close it; a read that waits in another thread ends."""
        sock = self._plain
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.close()
        if sock is not None:
            sock.close()


def _trusting(certificates: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates or None)
    except OSError as exc:
        reason = "it holds no certificate" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise CameraRefusalError(f"cameraCertificates {certificates} cannot be read: {reason}") from None


class _Limited(io.RawIOBase):
    """What a socket receives, within limits over all reads together."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # It keeps the socket open for as long as there is something to read.
        self._raw: Any = sock.makefile("rb", buffering=0)
        self._until, self._left = 0.0, 0

    def allow(self, seconds: float, size: int) -> None:
        self._until, self._left = time.monotonic() + seconds, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if (remaining_s := self._until - time.monotonic()) <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise CameraError("it sends more than a frame and its headers may have")
        self._sock.settimeout(remaining_s)
        count: int = self._raw.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Socket:
    """What an answer needs of a socket."""

    def __init__(self, limited: _Limited) -> None:
        self._limited = limited

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._limited, READ_BYTES)


class _Response(http.client.HTTPResponse):
    """An answer within limits.

    Args:
        sock: Of the connection.
        timeout_s: For the headers.
        more: Of the library.
    """

    def __init__(self, sock: socket.socket, timeout_s: float, **more: Any) -> None:
        self._limited = _Limited(sock)
        self._limited.allow(timeout_s, HEADER_BYTES)
        stand_in: Any = _Socket(self._limited)
        super().__init__(stand_in, **more)

    def allow(self, seconds: float) -> None:
        """Give the next frame so many seconds."""
        self._limited.allow(seconds, PICTURE_BYTES + PREAMBLE_BYTES + 2 * READ_BYTES)


def _picture(response: _Response, timeout_s: float) -> bytes:
    """Read an answer that is one frame."""
    kind = response.headers.get_content_type()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        said = kind if kind in KNOWN_TYPES else "another type"
        raise CameraRefusalError(f"it must answer with image/jpeg or multipart/x-mixed-replace, got {said}")
    length = response.length
    if length is not None and length > PICTURE_BYTES:
        raise CameraError(f"a frame must have at most {PICTURE_BYTES} bytes, got one of {length}")
    response.allow(timeout_s)
    data = response.read(PICTURE_BYTES + 1 if length is None else length)
    if len(data) > PICTURE_BYTES:
        raise CameraError(f"a frame must have at most {PICTURE_BYTES} bytes, got one of more")
    if length is not None and len(data) < length:
        raise CameraError(f"a frame of {length} bytes was cut off after {len(data)}")
    return data


class _Parts:
    """The frames of one endless answer.

    Cameras differ in how they write their boundary: with and without the two dashes, quoted, or not at all.
    Source: RFC 2046, section 5.1, and what is seen of cameras.

    Args:
        response: Of a multipart type.
        timeout_s: For each frame.
    """

    def __init__(self, response: _Response, timeout_s: float) -> None:
        self._response = response
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        name = response.headers.get_param("boundary", "")
        self._mark = b"--" + name.strip().lstrip("-").encode("latin-1") if isinstance(name, str) else b"--"

    def __iter__(self) -> Iterator[bytes]:
        buffer = self._buffer
        self._response.allow(self._timeout_s)
        if self._mark == b"--":
            del buffer[: self._find(b"--", PREAMBLE_BYTES, "what comes before the first part")]
            self._mark = bytes(buffer[: self._find(b"\n", PART_HEADER_BYTES, "a boundary")]).rstrip()
        while True:
            del buffer[: self._find(self._mark, PREAMBLE_BYTES, "what comes between two parts") + len(self._mark)]
            ends = self._find(_BLANK_LINE, PART_HEADER_BYTES, "the headers of a part")
            blank = _BLANK_LINE.search(buffer, ends)
            found = _LENGTH.search(buffer, 0, ends + 1)
            # Read before the buffer moves, in which it was found.
            length = int(found[1]) if found else None
            del buffer[: blank.end() if blank else ends]
            yield self._before_the_next() if length is None else self._of_length(length)
            self._response.allow(self._timeout_s)

    def _of_length(self, length: int) -> bytes:
        if length > PICTURE_BYTES:
            raise CameraError(f"a frame must have at most {PICTURE_BYTES} bytes, got one of {length}")
        while len(self._buffer) < length:
            self._more()
        frame = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return frame

    def _before_the_next(self) -> bytes:
        ends = self._find(self._mark, PICTURE_BYTES, "a frame")
        frame = bytes(memoryview(self._buffer)[:ends])
        del self._buffer[:ends]
        return frame.rstrip(b"\r\n")

    def _find(self, what: bytes | re.Pattern[bytes], limit: int, named: str) -> int:
        """Read until something is there; returns where it begins."""
        start = 0
        while True:
            if isinstance(what, bytes):
                place = self._buffer.find(what, start)
            else:
                place = found.start() if (found := what.search(self._buffer, start)) else -1
            if 0 <= place <= limit:
                return place
            if len(self._buffer) > limit:
                raise CameraError(f"{named} must have at most {limit} bytes, got more: is it MJPEG?")
            # What is looked for may have begun.
            start = max(len(self._buffer) - len(self._mark) - 2, 0)
            self._more()

    def _more(self) -> None:
        data = self._response.read1(READ_BYTES)
        if not data:
            raise CameraError("it ended the stream")
        self._buffer += data


def _redirected(url: SplitResult, location: str) -> SplitResult:
    """Where an answer sends to, if that is the same camera."""
    try:
        target = urlsplit(urljoin(url.geturl(), location))
        where = (target.scheme, target.hostname, target.port or PORTS.get(target.scheme))
    except ValueError:
        raise CameraRefusalError("it sends to an address that cannot be read") from None
    here = (url.scheme, url.hostname, url.port or PORTS[url.scheme])
    to_tls = where[:2] == ("https", url.hostname) and url.scheme == "http"
    readable = all("!" <= character <= "~" for character in target.geturl())
    if (where != here and not to_tls) or not location or not readable or "@" in target.netloc:
        raise CameraRefusalError("it sends to another host or port, which is not followed: name that in cameraUrl")
    return target


def _password(source: Source) -> str:
    if not source.password_file:
        return source.password.reveal()
    try:
        with Path(source.password_file).open("rb") as stream:
            content = stream.read(PASSWORD_BYTES)
    except OSError as exc:
        reason = exc.strerror or "not readable"
        raise CameraRefusalError(f"cameraPasswordFile {source.password_file} cannot be read: {reason}") from None
    return content.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", "replace")


def _challenge(header: str) -> tuple[str, dict[str, str]]:
    """Scheme and values of a WWW-Authenticate; without values where they cannot be read."""
    scheme, _, rest = header.strip().partition(" ")
    try:
        values = {key.lower(): value for key, value in parse_keqv_list(parse_http_list(rest)).items()}
    except (ValueError, IndexError):
        values = {}
    return scheme.lower(), values


def _rank(challenge: tuple[str, dict[str, str]]) -> int | None:
    """The smaller the stronger; None for one that cannot be answered."""
    scheme, values = challenge
    if scheme == "basic":
        return 2
    known = values.get("algorithm", "MD5").upper().removesuffix("-SESS") in _HASHES
    choices = [each.strip() for each in values.get("qop", "auth").lower().split(",")]
    usable = known and "auth" in choices and bool(values.get("nonce"))
    if scheme != "digest" or not usable or any(_UNQUOTABLE.search(value) for value in values.values()):
        return None
    return 0 if "256" in values.get("algorithm", "") else 1


class _Login:
    """Answers a challenge, time after time.

    Source: RFC 7617 (basic), RFC 7616 (digest; without `qop` as RFC 2069 had it).

    Args:
        user: Who.
        password: Its password.
        scheme: `basic` or `digest`.
        values: Of the challenge.
    """

    def __init__(self, user: str, password: str, scheme: str, values: Mapping[str, str]) -> None:
        self._user, self._password, self._scheme, self._values = user, password, scheme, values
        self._count = 0

    def header(self, path: str) -> bytes:
        """Write an Authorization header for the path of a GET."""
        if self._scheme == "basic":
            return b"Basic " + base64.b64encode(f"{self._user}:{self._password}".encode())
        values = self._values
        algorithm = values.get("algorithm", "MD5")
        realm, nonce, own = values.get("realm", ""), values["nonce"], secrets.token_hex(8)
        self._count += 1
        count = f"{self._count:08x}"

        def digest(*parts: str) -> str:
            found: str = _HASHES[algorithm.upper().removesuffix("-SESS")](":".join(parts).encode()).hexdigest()
            return found

        secret = digest(self._user, realm, self._password)
        if algorithm.upper().endswith("-SESS"):
            secret = digest(secret, nonce, own)
        asked = digest("GET", path)
        fields = {"username": _UNQUOTABLE.sub(r"\\\g<0>", self._user), "realm": realm, "nonce": nonce, "uri": path}
        plain = {"algorithm": algorithm} if "algorithm" in values else {}
        if "qop" in values:
            fields["response"] = digest(secret, nonce, count, own, "auth", asked)
            fields["cnonce"] = own
            plain |= {"qop": "auth", "nc": count}
        else:
            fields["response"] = digest(secret, nonce, asked)
        if "opaque" in values:
            fields["opaque"] = values["opaque"]
        written = [f'{key}="{value}"' for key, value in fields.items()]
        return ("Digest " + ", ".join([*written, *(f"{key}={value}" for key, value in plain.items())])).encode()


def _said(exc: Exception, source: Source) -> str:
    """What went wrong, in our own words: a library's may repeat what a camera sent, or what it was sent."""
    if isinstance(exc, TimeoutError):
        return f"no whole frame within {source.timeout_s:g} s (cameraTimeoutSeconds)"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({exc.verify_message}): name the file of its authority in "
            "cameraCertificates"
        )
    if isinstance(exc, socket.gaierror):
        return "its host name is not known on this device"
    if isinstance(exc, http.client.IncompleteRead):
        return "a frame was cut off"
    if isinstance(exc, http.client.HTTPException):
        return "it answers with something else than HTTP"
    if isinstance(exc, OSError):
        return exc.strerror or f"the connection ended ({type(exc).__name__})"
    return f"what it sends cannot be read ({type(exc).__name__})"
