import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_component.settings import ConfigurationError
from edge_inference import camera_frames
from edge_inference.camera import Camera, CameraError, CameraRefusalError, Secret, Source
from edge_inference.camera_frames import HttpFrames
from edge_inference.settings import parse
from tests.core_device.tls_identity import make_identity
from tests.edge.local_device import configuration
from tests.edge.rogue_camera import FAULTS, RogueCamera, jpeg

PICTURE = jpeg(8, 8)
LIMIT_S = 30


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def served(*answers: bytes, pause: Callable[[float], object] = time.sleep, **source: Any) -> list[bytes]:
    """All frames of a camera that sends some answers, as raw bytes, and then nothing."""
    found: list[bytes] = []
    with RogueCamera() as camera:
        camera.answers, camera.mode = list(answers), "hangs-up"
        frames = HttpFrames(Source(camera.url, timeout_s=LIMIT_S, every_s=0.01, **source), pause)
        try:
            for frame in frames:
                found.append(frame)
                if len(found) == 3:
                    break
        finally:
            frames.close()
    return found


def multipart(content_type: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (content_type, len(body), body)


@pytest.mark.parametrize(
    ("declared", "written"),
    [(b"abc", b"--abc"), (b"--abc", b"--abc"), (b'"abc"', b"--abc"), (b"--abc", b"----abc"), (None, b"--abc")],
)
@pytest.mark.parametrize("length", [b"Content-Length: %d\r\n" % len(PICTURE), b""], ids=["length", "no length"])
@pytest.mark.parametrize("line", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_boundaries_are_read_as_cameras_write_them(
    declared: bytes | None, written: bytes, length: bytes, line: bytes
) -> None:
    part = (written + b"\r\nContent-Type: image/jpeg\r\n" + length + b"\r\n").replace(b"\r\n", line) + PICTURE + line
    kind = b"multipart/x-mixed-replace" + (b"" if declared is None else b"; boundary=" + declared)

    found = served(multipart(kind, part * 4))

    # Two dashes of the next boundary may be left, which no decoder minds.
    assert [frame.rstrip(b"-\r\n") for frame in found] == [PICTURE] * 3


def test_pictures_are_asked_for_one_by_one_on_one_connection() -> None:
    with RogueCamera() as camera:
        camera.mode = "jpeg"
        frames = HttpFrames(Source(camera.url, every_s=0.01), time.sleep)

        found = [frame for frame, _ in zip(frames, range(4), strict=False)]

        frames.close()
    assert found == (camera.frames * 2)[:4]
    assert camera.requests[0].startswith(b"GET /video?token=tkn123 HTTP/1.1")


def test_a_camera_that_begins_to_stream_is_followed_on_the_same_connection() -> None:
    with RogueCamera() as camera:
        camera.mode = "jpeg"
        frames = HttpFrames(Source(camera.url, every_s=0.01), time.sleep)
        taken = iter(frames)
        assert next(taken) in camera.frames
        camera.mode = "mjpeg"

        assert [next(taken) in camera.frames for _ in range(5)] == [True] * 5

        frames.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 99999999\r\n\r\n", "at most 16777216 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "got text/html"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: secret/thing\r\n\r\n", "got another type"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404: is cameraUrl right"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\n\r\n", "another host or port"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "another host or port"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "another host or port"),
        (b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\n\r\n", "set cameraUser"),
        (b"nonsense\r\n\r\n", "something else than HTTP"),
        (multipart(b"multipart/x-mixed-replace; boundary=a", b"x" * 70_000), "before the first part|between two parts"),
        (multipart(b"multipart/x-mixed-replace; boundary=a", b"--a\r\n" + b"x" * 9000), "headers of a part"),
    ],
)
def test_what_is_no_camera_is_told_in_our_own_words(answer: bytes, said: str) -> None:
    with pytest.raises(CameraError, match=said):
        served(answer)


def test_a_redirection_within_the_camera_is_followed_and_a_circle_ends() -> None:
    there = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /other\r\n\r\n"
    with RogueCamera() as camera:
        camera.answers = [there]
        frames = HttpFrames(Source(camera.url), time.sleep)
        assert next(iter(frames)) == camera.frames[0]
        frames.close()
        assert camera.requests[1].startswith(b"GET /other ")

    with pytest.raises(CameraRefusalError, match="in a circle"):
        served(*[there] * 6)


def test_a_login_by_digest_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 7616, section 3.9.1.
    nonce, own = (
        "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
    )
    monkeypatch.setattr("secrets.token_hex", lambda _size: own)
    values = {"realm": "http-auth@example.org", "qop": "auth, auth-int", "nonce": nonce, "opaque": "o"}
    for algorithm, response in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        login = camera_frames._Login("Mufasa", "Circle of Life", "digest", {**values, "algorithm": algorithm})

        assert f'response="{response}"'.encode() in login.header("/dir/index.html")
        assert b"nc=00000002" in login.header("/dir/index.html")

    old = camera_frames._Login("u", "p", "digest", {"realm": "r", "nonce": "n"}).header("/a")
    assert b'response="544c035f0f40d9ebf0295157d8041f8c"' in old


def test_the_stronger_login_is_taken_a_stale_nonce_tried_anew_and_a_refused_one_not(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("Pa$$:wörd\nanother line\n")
    file: dict[str, Any] = {"user": "admin", "password_file": str(tmp_path / "password")}
    both = (
        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nWWW-Authenticate: Digest realm="x", nonce="%s", '
        b'algorithm=MD5, qop="auth"%s\r\nContent-Length: 0\r\n\r\n'
    )
    with RogueCamera() as camera:
        camera.answers = [both % (b"one", b""), both % (b"two", b", stale=true")]
        frames = HttpFrames(Source(camera.url, **file), time.sleep)
        assert next(iter(frames)) == camera.frames[0]
        frames.close()
        assert [b'nonce="two"' in request for request in camera.requests] == [False, False, True]
        assert not any(b"Basic" in request for request in camera.requests)

    with pytest.raises(CameraRefusalError, match="refuses the login of cameraUser"):
        served(both % (b"one", b""), both % (b"two", b""), **file)
    with pytest.raises(CameraRefusalError, match=r"cameraPasswordFile .* cannot be read: No such file"):
        served(both % (b"one", b""), user="admin", password_file=str(tmp_path / "none"))
    for unusable in (b'Digest realm="x", nonce="n", algorithm=MD4', b"Negotiate", b"Digest =,"):
        with pytest.raises(CameraRefusalError, match="neither basic nor digest"):
            served(b"HTTP/1.1 401 No\r\nWWW-Authenticate: " + unusable + b"\r\n\r\n", **file)


def test_no_secret_is_told_whatever_the_camera_echoes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    password = "hunter2hunter2"
    told = ["aHVudGVyMmh1bnRlcjI", "YWRtaW46", password, "tkn123"]
    with RogueCamera() as server:
        ask = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
        echoed = b"YWRtaW46aHVudGVyMmh1bnRlcjI= hunter2hunter2"
        bad = [b"HTTP/1.1 500 " + echoed, b"HTTP/1.1 302 x\r\nLocation: http://h/" + echoed, echoed]
        bad += [b"HTTP/1.1 200 OK\r\nContent-Type: text/" + echoed.replace(b" ", b"")]
        for answer in bad:
            server.answers = [ask, answer + b"\r\n\r\n"]
            source = Source(server.url, user="admin", password=Secret(password))
            camera = Camera(source, lambda _camera: None, HttpFrames)
            camera.start()
            wait_for(lambda camera=camera: "problem" in camera.state())  # type: ignore[misc]
            camera.close()
            text = f"{camera.state()} {source!r} {caplog.text}"
            assert not [each for each in told if each in text], text
        assert b"YWRtaW46aHVudGVyMmh1bnRlcjI=" in server.requests[1]
    assert "the password goes over the network readable" in caplog.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("http://admin:hunter2@camera/", "move them to cameraUser and cameraPasswordFile"),
        ("http://hunter2@camera/", "move them to cameraUser"),
        ("rtsp://camera/hunter2", "scheme must be http or https, got rtsp"),
        ("http:///hunter2", "must name a host"),
        ("http://camera:0/hunter2", "port from 1 to 65535"),
        ("http://camera:hunter2/", "host or port cannot be read"),
        ("http://camera/hunter2 x", "without spaces"),
        ("http://camera/\r\nhunter2", "without spaces"),
        ("http://c/" + "x" * 2000, "at most 1024"),
        (7, "must be an address"),
    ],
)
def test_an_address_that_does_not_do_is_refused_without_being_repeated(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        parse(configuration(cameraUrl=value))

    assert "hunter2" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="cameraPassword must be a text") as refused:
        parse(configuration(cameraPassword="hunter2\n"))
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(parse(configuration(cameraPassword="hunter2")))


class Feed:
    """A connection whose frames a test makes."""

    def __init__(self) -> None:
        self.frames: list[bytes | Exception] = []
        self.closed = False

    def __call__(self, _source: Source, _pause: Callable[[float], object]) -> "Feed":
        return self

    def __iter__(self) -> Iterator[bytes]:
        while not self.closed:
            if self.frames:
                frame = self.frames.pop(0)
                if isinstance(frame, Exception):
                    raise frame
                yield frame
            time.sleep(0.001)

    def close(self) -> None:
        self.closed = True


def test_the_newest_frame_wins_and_nothing_queues() -> None:
    feed, told = Feed(), list[Camera]()
    camera = Camera(Source("http://camera/", every_s=0.02), told.append, feed)
    feed.frames = [PICTURE + b"%d" % number for number in range(50)]

    camera.start()
    wait_for(lambda: camera.state()["frames"] == 50)

    # Told once, as nobody took one; then it is the last.
    assert told == [camera]
    frame = camera.take()
    assert frame is not None
    assert frame.data == PICTURE + b"49"
    assert camera.take() is None
    feed.frames = [PICTURE]
    wait_for(lambda: len(told) == 2)
    camera.close()


def test_frames_are_handed_on_at_the_rate_that_is_asked_for() -> None:
    feed, times = Feed(), list[float]()

    def take(camera: Camera) -> None:
        times.append(time.monotonic())
        camera.take()

    camera = Camera(Source("http://camera/", every_s=0.1), take, feed)
    feed.frames = [PICTURE] * 100_000
    camera.start()
    wait_for(lambda: len(times) >= 8)
    camera.close()

    # Never faster than the rate, however busy this machine is; a wait may end some microseconds early.
    assert times[7] - times[0] >= 0.1 * 6 - 0.001


def take(camera: Camera) -> None:
    camera.take()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_camera_that_misbehaves_is_read_again_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # How soon is measured by benchmarks/camera_faults.py.
    monkeypatch.setattr("edge_inference.camera.FIRST_REFUSED_PAUSE_S", 0.2)
    choose = random.Random(7)  # noqa: S311 - the same at each run
    with RogueCamera(fps=50) as server:
        camera = Camera(Source(server.url, every_s=0.02, timeout_s=1), take, HttpFrames)
        camera.start()
        wait_for(lambda: int(str(camera.state()["frames"])) > 2)
        threads, files = threading.active_count(), descriptors()
        for fault in choose.sample(FAULTS, len(FAULTS)):
            server.mode = fault
            time.sleep(choose.uniform(0.2, 0.5))
            server.mode = choose.choice(["mjpeg", "no-length"])
            before = camera.state()["frames"]
            wait_for(lambda before=before: camera.state()["frames"] != before)  # type: ignore[misc]
        wait_for(lambda: threading.active_count() <= threads)
        wait_for(lambda: descriptors() <= files)
        wait_for(lambda: "problem" not in camera.state())
        camera.close()


def test_https_is_verified_and_a_cameras_own_certificate_can_be_trusted(tmp_path: Path) -> None:
    make_identity(tmp_path, host="localhost")
    certificate, context = tmp_path / "ca.pem", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with RogueCamera(context=context) as server:
        source = Source(server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(CameraError, match=r"not trusted .* cameraCertificates"):
            next(iter(HttpFrames(source, time.sleep)))
        with pytest.raises(CameraError, match=r"cameraCertificates .* cannot be read"):
            next(iter(HttpFrames(replace(source, certificates=str(tmp_path / "none")), time.sleep)))

        frames = HttpFrames(replace(source, certificates=str(certificate)), time.sleep)

        assert next(iter(frames)) == server.frames[0]
        frames.close()
        with pytest.raises(CameraError, match="not trusted"):
            next(iter(HttpFrames(replace(source, address=server.url, certificates=str(certificate)), time.sleep)))
