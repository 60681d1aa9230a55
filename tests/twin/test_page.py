"""The live page's server: who is let in, what is malformed, what piles up."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from config.fleet import RINGS
from config.loader import load_stage
from config.names import Names
from tests.twin.conftest import wait_until
from tools.fleet_page import of_account
from twin import TwinError
from twin.clock import Clock
from twin.page import fleet as fleet_module
from twin.page import live as live_module
from twin.page import messages as messages_module
from twin.page import server as server_module
from twin.page.fleet import Component, Device, Execution, Fleet, Rollout, Source, View
from twin.page.messages import Messages
from twin.page.parts import devices, predictions, rollout
from twin.page.server import listener, serve

STAGE, NAMES, TOKEN = load_stage("twin"), Names("twin"), "t0ken"
PNG = b"\x89PNG\r\n\x1a\n and more"


class Link:
    """A client of nobody; what is put into `heard` was said by devices."""

    def __init__(self) -> None:
        self.heard: dict[str, queue.SimpleQueue[bytes]] = {}

    def publish(self, topic: str, payload: bytes) -> None:
        raise NotImplementedError

    @contextmanager
    def listen(self, topic: str) -> Iterator[queue.SimpleQueue[bytes]]:
        yield self.heard.setdefault(topic, queue.SimpleQueue())

    def say(self, topic: str, payload: bytes) -> None:
        """As a device does; who begins to listen later hears it, too."""
        self.heard.setdefault(topic, queue.SimpleQueue()).put(payload)


def nobody(_service: str) -> Any:
    raise TwinError("there is no account")


def done(device: str, fault: str) -> str:
    if fault != "kill":
        raise TwinError(f"FAULT must be one of kill, got {fault!r}")
    return f"{device} was killed"


@contextmanager
def served(source: Source) -> Iterator[str]:
    """The page's address, without the token."""
    taken, ended = listener(None), threading.Event()
    address = f"http://127.0.0.1:{taken.getsockname()[1]}"

    async def run() -> None:
        loop = asyncio.get_running_loop()
        # Signals are the main thread's.
        loop.add_signal_handler = lambda *_: None  # type: ignore[method-assign]
        task = asyncio.create_task(serve(source, taken, TOKEN))
        await asyncio.to_thread(ended.wait)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:

        def answers() -> bool:
            with suppress(httpx.HTTPError):
                return httpx.get(f"{address}/{TOKEN}/static/page.css", timeout=30).status_code == 200
            return False

        wait_until(answers)
        yield address
    finally:
        ended.set()
        thread.join(60)


@pytest.fixture(scope="module")
def link() -> Link:
    return Link()


@pytest.fixture(scope="module")
def source(link: Link) -> Source:
    @contextmanager
    def connect() -> Iterator[Link]:
        yield link

    def ask(_link: Any, content: Any) -> dict[str, Any]:
        asked = server_module.question(STAGE, content)
        return {"label": asked.model, **{key: str(value) for key, value in asked.request.items()}}

    return Source(
        stage=STAGE,
        where="nowhere",
        clients=nobody,
        connect=connect,
        left=lambda: {"things": ["<b>one</b>"]},
        ask=ask,
        faults={"kill": "kill it"},
        fault=done,
    )


@pytest.fixture(scope="module")
def address(source: Source) -> Iterator[str]:
    with served(source) as found:
        yield found


def get(address: str, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{address}{path}", headers=headers, timeout=30)


@pytest.mark.parametrize(
    ("path", "headers", "says"),
    [
        ("/", {}, "must have the token"),
        ("/wrong/", {}, "must have the token"),
        (f"/{TOKEN}x/", {}, "must have the token"),
        ("//", {}, "must have the token"),
        (f"/{TOKEN}/", {"host": "evil.example"}, "Host must be"),
        (f"/{TOKEN}/", {"origin": "http://evil.example"}, "another site's page"),
        (f"/{TOKEN}/", {"origin": "null"}, "another site's page"),
        (f"/{TOKEN}/", {"sec-fetch-site": "cross-site"}, "another site's page"),
        (f"/{TOKEN}/events", {"host": "127.0.0.1:1"}, "Host must be"),
    ],
)
def test_nobody_else_is_let_in(address: str, path: str, headers: dict[str, str], says: str) -> None:
    answer = get(address, path, **headers)

    assert answer.status_code == 403
    assert says in answer.text
    assert TOKEN not in answer.text.removeprefix(path)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_says_what_it_cannot_know_and_holds_no_secret(address: str) -> None:
    answer = get(address, f"/{TOKEN}/")

    assert answer.status_code == 200
    assert "The account does not answer, what is shown is old: there is no account" in answer.text
    assert TOKEN not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert get(address, f"/{TOKEN}").headers["location"] == f"/{TOKEN}/"
    assert "&lt;b&gt;one" in get(address, f"/{TOKEN}/destroy").text
    for path in ("log?name=../../etc/passwd", "picture/..%2f..%2fx", "picture/digits-99999999", "static/..%2fpage.js"):
        assert get(address, f"/{TOKEN}/{path}").status_code == 404, path


def post(address: str, path: str, content: bytes | dict[str, Any], **headers: str) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {"origin": address, "content-type": "application/json", **headers}
    return httpx.post(f"{address}/{TOKEN}/{path}", content=body, headers=named, timeout=30)


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (b"{", {}, 400, "must be JSON"),
        (b"[1]", {}, 400, "an object is expected, got list"),
        (b"[" * 100_000, {}, 400, "must be JSON"),
        (b"{}", {"content-type": "text/plain"}, 415, "Content-Type must be application/json"),
        (b"{}", {"origin": "http://evil.example"}, 403, "another site's page"),
        (b"x" * (server_module.BODY_BYTES + 1), {}, 413, ""),
        (b'{"device": "d", "fault": "explode"}', {}, 422, "FAULT must be one of kill, got 'explode'"),
    ],
)
def test_what_is_not_a_request_is_refused_with_the_reason(
    address: str, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    answer = post(address, "fault", content, **headers)

    assert answer.status_code == status
    assert says in answer.text


def test_a_request_without_a_path_is_refused(address: str) -> None:
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(f"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {address}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 403")


def test_only_a_post_of_the_page_changes_something(address: str) -> None:
    assert post(address, "fault", {"device": "d", "fault": "kill"}).json() == {"said": "d was killed"}
    assert get(address, f"/{TOKEN}/fault").status_code == 405
    bare = httpx.post(f"{address}/{TOKEN}/fault", json={"device": "d", "fault": "kill"}, timeout=30)
    assert (bare.status_code, "Origin header is missing" in bare.text) == (403, True)

    answer = wait_until(
        lambda: (got := post(address, "ask", {"model": "digits", "index": 7})).status_code == 200 and got
    )
    assert answer.json() == {"label": "digits", "index": "7"}
    for image in ("no base64!", "é"):
        refused = post(address, "ask", {"model": "digits", "image": image})
        assert "image must be base64" in refused.json()["problem"]


def test_a_page_that_only_reads_has_nothing_to_post_to(source: Source) -> None:
    with served(replace(source, ask=None, fault=None, faults={})) as address:
        assert 'id="ask"' not in get(address, f"/{TOKEN}/").text
        for path in ("ask", "fault"):
            assert post(address, path, {}).status_code == 404


def events(address: str) -> socket.socket:
    port = int(address.rpartition(":")[2])
    browser = socket.socket()
    browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    browser.settimeout(30)
    browser.connect(("127.0.0.1", port))
    browser.sendall(f"GET /{TOKEN}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    return browser


def let_in(address: str) -> socket.socket:
    """A browser that has its events, once those that left before are no longer counted."""

    def one() -> socket.socket | None:
        browser = events(address)
        if browser.recv(12, socket.MSG_PEEK | socket.MSG_WAITALL) == b"HTTP/1.1 200":
            return browser
        browser.close()
        return None

    return wait_until(one)  # type: ignore[no-any-return]


def test_a_message_comes_as_an_event_and_more_browsers_than_sixteen_are_refused(address: str, link: Link) -> None:
    browsers = [events(address) for _ in range(live_module.CLIENTS)]
    try:
        received = b""
        for browser in browsers:
            received = browser.recv(1 << 16)
            assert received.startswith(b"HTTP/1.1 200")

        answer = get(address, f"/{TOKEN}/events")
        assert (answer.status_code, "16 pages may be open" in answer.text) == (503, True)

        link.say(NAMES.response_topic("iris"), b'{"label": "<script>alert(1)</script>", "device": "line-1"}')
        while b"&lt;script&gt;alert(1)" not in received:  # in bytes: a part may end within a character
            received += browsers[-1].recv(1 << 16)
        assert b"<script>" not in received
    finally:
        for browser in browsers:
            browser.close()


def test_a_browser_that_takes_nothing_is_dropped(
    address: str, link: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_module, "SEND_S", 0.5)
    browser = let_in(address)
    number = 0

    def dropped() -> bool:
        nonlocal number
        number += 1
        row = {"label": "x", "device": "d" * 200, "top_k": [{"label": f"{number}-{'y' * 150}", "probability": 1}] * 3}
        for _ in range(30):
            link.say(NAMES.response_topic("iris"), json.dumps(row).encode())
        return "took nothing for" in caplog.text

    wait_until(dropped, 60)

    wait_until(lambda: get(address, f"/{TOKEN}/").status_code == 200)
    browser.close()


def told(payload: Any) -> Messages:
    messages = Messages(STAGE, clock=lambda: 1000.5)
    messages.response("digits", payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return messages


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"null", b"[]", b"7", b"[" * 200_000, {}, {"top_k": 1}, {"top_k": [1, None, {"label": 3}]},
     {"top_k": [{"label": "a", "probability": 1e999}]}, {"error": []}, {"model": "x", "latency_ms": True},
     {"objects": 7, "size": [1, None]}, {"objects": [{"box": [1, 2, 3]}, {"box": [[], 1, 2, 3]}, 5], "size": [1, 9]},
     {"objects": [{"box": [1, 2, 3, 10**400]}], "size": [1, 10**400]},
     {"latency_ms": 10**400, "label": {"a": 1}}, {"device": "d" * 10_000, "label": "l" * 10_000}],
)  # fmt: skip
def test_no_message_of_a_device_breaks_the_page(payload: Any) -> None:
    messages = told(payload)
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    messages.request("digits", raw)
    messages.heartbeat(raw)

    (prediction,) = messages.newest()
    assert max(len(prediction.device), len(prediction.label)) <= 200
    assert all(0 <= probability <= 1 for _, probability in prediction.top)
    json.dumps(messages.points(), allow_nan=False)


def test_an_answer_is_shown_with_what_was_asked() -> None:
    messages = told({})
    messages.request("digits", b'{"request_id": "a", "index": 7}')
    messages.request("iris", b'{"request_id": "b", "features": [5.1, 3.5]}')
    messages.request("digits", json.dumps({"request_id": "c", "image": "iVBORw0KGgo="}).encode())
    messages.request("digits", json.dumps({"request_id": "d", "index": -1}).encode())
    for identifier, model in zip("abcd", ("digits", "iris", "digits", "digits"), strict=True):
        messages.response(model, json.dumps({"request_id": identifier, "label": "no digit", "latency_ms": 2}).encode())

    fourth, third, second, first, _ = messages.newest()
    assert messages.picture(first.picture).startswith(b"\x89PNG")
    assert first.wrong.isdecimal()
    assert (second.picture, second.asked) == ("", "[5.1, 3.5]")
    assert messages.picture(third.picture) == b"\x89PNG\r\n\x1a\n"
    assert fourth.picture == ""


def test_objects_are_drawn_on_their_picture() -> None:
    messages = told({})
    messages.request("digit-detector", b'{"request_id": "a", "index": 7}')
    found = [
        {"label": "7", "probability": 0.9, "box": [4, 50.5, 18, 74]},
        {"label": "2", "probability": 0.5, "box": [0]},
    ]
    for objects in ([], found):
        answer = {"request_id": "a", "objects": objects, "size": [96, 96], "latency_ms": 2}
        messages.response("digit-detector", json.dumps(answer).encode())

    shown = predictions(messages.newest())

    assert [each.label for each in messages.newest()][:2] == ["7, 2", "nothing found"]
    assert shown.count("<svg") == 1
    assert '<svg viewBox="0 0 96 96" aria-hidden="true"><rect x="4" y="50.5" width="14" height="23.5"/></svg>' in shown


def test_stores_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "_PICTURES_BYTES", 100)
    messages = told({})
    for number in range(3000):
        identifier = f"r{number}"
        messages.request(
            "digits", json.dumps({"request_id": identifier, "image": "iVBORw0KGgo" + f"{number:05d}"}).encode()
        )
        messages.response("digits", json.dumps({"request_id": identifier, "label": "1", "latency_ms": 1}).encode())
        messages.heartbeat(json.dumps({"device": identifier, "models": {"digits": {"answered": 1}}}).encode())

    assert (messages.count, len(messages.newest())) == (3001, messages_module.SHOWN)
    assert len(messages.heartbeats) == 2000
    assert len(messages._asked) == 512
    assert sum(map(len, messages._pictures.values())) <= 100
    assert [len(second.latencies) for second in messages._seconds] == [500]
    assert messages.rate(60) == 3001


def test_ids_and_probabilities_of_a_flood_take_no_room() -> None:
    messages = told({})
    for number in range(2000):
        asked = {"request_id": f"{number:04d}{'i' * 9000}", "features": [1]}
        messages.request("iris", json.dumps(asked).encode())
        answer = {"request_id": asked["request_id"], "top_k": [{"label": "a", "probability": 0.25}]}
        messages.response("iris", json.dumps(answer).encode())

    assert max(map(len, messages._asked)) <= 200
    assert messages.newest()[0].asked == "[1]"
    assert messages._seconds[-1].confidences == {"iris": (500.0, 2000)}


def test_a_message_that_cannot_be_taken_in_does_not_end_the_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages_module, "_AGAIN_S", 0.01)
    messages, link, stop = Messages(STAGE), Link(), threading.Event()

    def fail(_model: str, _index: int) -> Any:
        raise TypeError("cannot handle this data type")

    @contextmanager
    def connect() -> Iterator[Link]:
        yield link

    monkeypatch.setattr(messages_module, "sample_of", fail)
    messages.request("digits", b'{"request_id": "a", "index": 7}')
    listening = threading.Thread(target=messages.listen, args=(connect, stop))
    listening.start()
    try:
        wait_until(lambda: messages.link is not None)
        link.heard[NAMES.response_topic("digits")].put(b'{"request_id": "a", "label": "7"}')
        link.heard[NAMES.response_topic("digits")].put(b'{"label": "the next one"}')
        wait_until(lambda: messages.count == 1)
    finally:
        stop.set()
        listening.join(30)
    assert messages.newest()[0].label == "the next one"


def test_a_page_goes_on_where_a_file_goes_while_it_is_read(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[int] = []
    looks: list[int] = []

    def gone() -> dict[str, Any]:
        raised.append(1)
        raise FileNotFoundError("device-01")

    def clients(_service: str) -> Any:
        looks.extend(raised)
        raise TwinError("there is no account")

    monkeypatch.setattr(live_module, "_ALONE_S", 0.01)
    with served(replace(source, logs=gone, clients=clients)):
        wait_until(lambda: len(looks) > 20)


def test_a_fleet_of_ten_thousand_is_listed_by_large_pages(source: Source) -> None:
    asked: list[dict[str, Any]] = []

    class Client:
        def get_paginator(self, operation: str) -> Any:
            return self

        def paginate(self, **arguments: Any) -> Any:
            asked.append(arguments)
            return ({"things": [str(number)]} for number in range(100))

    fleet = Fleet(replace(source, clients=lambda _service: Client()))
    try:
        assert len(list(fleet._all("iot", "list_things_in_thing_group", "things", thingGroupName="all"))) == 100
    finally:
        fleet.close()
    assert asked == [{"thingGroupName": "all", "PaginationConfig": {"PageSize": 250}}]


class Account:
    """An account with a device of the stage and one of another, whose clock is an hour ahead."""

    exceptions = SimpleNamespace(ResourceNotFoundException=LookupError)
    meta = SimpleNamespace(service_model=SimpleNamespace(shape_for=lambda _name: SimpleNamespace(enum=[])))

    def __init__(self, now: float) -> None:
        self.asked: list[str] = []
        self._at = datetime.fromtimestamp(now + 3600, UTC)

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(paginate=lambda **_arguments: [self._page(operation)])

    def get_core_device(self, **_arguments: Any) -> dict[str, str]:
        return {"coreVersion": "2.6.0"}

    def _page(self, operation: str) -> dict[str, Any]:
        self.asked.append(operation)
        core = {"status": "HEALTHY", "lastStatusUpdateTimestamp": self._at}
        return {
            "coreDevices": [{**core, "coreDeviceThingName": thing} for thing in ("line-1", "of-another-stage")],
            "things": ["line-1"],
            **{name: [] for name in ("installedComponents", "deployments", "StackSummaries")},
            "MetricAlarms": [{"AlarmName": f"{NAMES.prefix}-x", "StateValue": "OK", "StateUpdatedTimestamp": self._at}],
        }


def test_devices_of_others_are_no_reason_to_ask_for_the_rings_and_times_are_the_browsers(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "_MEMBERS_S", 1e9)
    now = 1_800_000_000.0
    account = Account(now)
    fleet = Fleet(replace(source, clients=lambda _service: account, clock=lambda: Clock(60, now - 60, now)))
    try:
        fleet.look()
        view = fleet.look()
    finally:
        fleet.close()

    assert view.trouble == ""
    assert account.asked.count("list_core_devices") == 2
    assert account.asked.count("list_things_in_thing_group") == len(RINGS)
    assert account.asked.count("list_installed_components") == 1
    (device,) = view.devices
    assert (device.thing, device.reported) == ("line-1", now)
    assert view.alarms[0][3] == now


def test_figures_of_a_second_are_those_of_its_answers() -> None:
    clock = [1000.0]
    messages = Messages(STAGE, clock=lambda: clock[0])
    for place in range(1, 101):
        answer = {"label": "1", "latency_ms": place, "top_k": [{"label": "1", "probability": 0.5}]}
        messages.response("digits", json.dumps(answer).encode())
    messages.response("iris", json.dumps({"error": {"code": "X", "message": "y"}}).encode())
    assert messages.points() == []

    clock[0] = 1001.0
    ((at, p50, p95, p99, errors, rate, confidence, irises, unsure, *_),) = messages.points()

    assert (at, p50, p95, p99) == (1000, 50.5, 95.05, 99.01)
    assert (errors, rate, confidence, irises, unsure) == (1, 100, 0.5, 1, None)
    assert messages.points(since=1000) == []


def test_why_a_rollout_failed_and_what_runs_where_is_told() -> None:
    failed = Execution("line-1", "FAILED", 1000.0, "the run step <exited> with 3")
    rolled = Rollout("canary", "f70499a9-1", 900.0, (failed, Execution("line-2", "IN_PROGRESS", 1001.0)))
    broken = Component("edgewright.twin.Inference", "1.2.3", "BROKEN")
    view = View(devices=(Device("line-1", "canary", "UNHEALTHY", 1000.0, "2.6.0 lite", (broken,)),), rollouts=(rolled,))

    text = rollout(view)
    table = devices(view, {})

    assert "rolls out" in text
    assert "1 failed, 1 in progress" in text
    assert "the run step &lt;exited&gt; with 3" in text
    for words in ("line-1", "canary", "unhealthy", "1 components, 1 broken", "edgewright.twin.Inference 1.2.3"):
        assert words in table.lower() or words in table


def test_the_page_over_aws_only_reads() -> None:
    class Session:
        def client(self, service: str, **_settings: Any) -> Any:
            assert service == "sts"
            return type("Sts", (), {"get_caller_identity": lambda _self: {"Account": "111122223333"}})()

    source = of_account(Session(), load_stage("dev"))

    assert "AWS account 111122223333" in source.where
    assert (source.ask, source.fault, dict(source.faults), dict(source.logs())) == (None, None, {}, {})


def test_a_port_is_one_pages_from_the_moment_it_is_taken() -> None:
    with listener(None) as first, pytest.raises(OSError, match="in use"):
        listener(first.getsockname()[1])
