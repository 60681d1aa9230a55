import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from edge_component import BackOff, connected_service
from edge_component.connected_service import Event, ServiceError
from edge_component.ipc import IpcError, RefusedError
from edge_component.outbox import Outbox
from edge_inference.service import InferenceService, Router
from tests.edge.publications import Pauses


class FakeClient:
    """A connection that can be lost and whose calls can fail."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.on_lost = on_lost
        self.lost = False
        self.local = None
        self.closed = False
        self.failure: Exception | None = None
        self.reports = 0
        self.reads = 0
        self.renewals: list[float] = []
        self.report_failure: Exception | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.settings: object = {"models": {}}
        self.exchange: object = {"port": "4711"}

    def lose(self) -> None:
        self.lost = True
        self.on_lost()

    def configuration(self) -> object:
        self.reads += 1
        if self.failure:
            raise self.failure
        return self.settings

    def configuration_of(self, component: str) -> object:
        assert component == "aws.greengrass.TokenExchangeService"
        if isinstance(self.exchange, Exception):
            raise self.exchange
        return self.exchange

    def watch_configuration(self, on_change: Callable[[], None]) -> None:
        self.on_change = on_change

    def renew(self, silent_s: float) -> None:
        self.renewals.append(silent_s)

    def report_running(self) -> None:
        self.reports += 1
        if self.report_failure:
            raise self.report_failure

    def close(self) -> None:
        self.closed = True


class FakeDevice:
    """Connects, or fails as it is told."""

    def __init__(self) -> None:
        self.clients: list[FakeClient] = []
        self.failures: list[Exception] = []
        self.call_failure: Exception | None = None
        self.report_failure: Exception | None = None

    def __call__(self, on_lost: Callable[[], None]) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        client = FakeClient(on_lost)
        client.failure = self.call_failure
        client.report_failure = self.report_failure
        self.clients.append(client)
        return client

    def wait_for(self, count: int) -> FakeClient:
        deadline = time.monotonic() + 30
        while len(self.clients) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.clients[-1]


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def service(device: FakeDevice, **options: Any) -> InferenceService:
    def no_endpoint(settings: object) -> Any:
        raise AssertionError

    return InferenceService(device, Router(no_endpoint), Outbox(), **options)


class Running:
    """A service in a thread."""

    def __init__(self, made: InferenceService) -> None:
        self.ending: Event | Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(made,), daemon=True)
        self._thread.start()

    def _run(self, made: InferenceService) -> None:
        try:
            self.ending = made.run()
        except ServiceError as exc:
            self.ending = exc

    def wait(self, limit_s: float = 30) -> Event | Exception | None:
        self._thread.join(limit_s)
        return self.ending


def test_connects_anew_when_the_connection_is_lost_and_ends_when_told() -> None:
    device = FakeDevice()
    made = service(device)
    running = Running(made)
    first = device.wait_for(1)

    first.lose()
    second = device.wait_for(2)
    made.stop()

    assert running.wait() is Event.STOP
    assert first.closed
    assert second.closed


@pytest.mark.parametrize("failure", [None, IpcError("ServiceError"), RefusedError("no such component")])
def test_tells_each_device_that_it_runs_and_serves_whatever_that_says(failure: Exception | None) -> None:
    device = FakeDevice()
    device.report_failure = failure
    made = service(device)
    running = Running(made)
    device.wait_for(1).lose()
    device.wait_for(2)
    made.stop()

    assert running.wait() is Event.STOP
    assert [client.reports for client in device.clients] == [1, 1]


def test_waits_for_a_device_that_is_not_there_yet() -> None:
    device = FakeDevice()
    device.failures = [IpcError("no socket"), IpcError("no socket")]
    made = service(device)
    running = Running(made)

    device.wait_for(1)
    made.stop()

    assert running.wait() is Event.STOP


@pytest.mark.parametrize("calls", [False, True])
def test_gives_up_when_there_is_no_device_for_too_long(calls: bool) -> None:
    device = FakeDevice()
    if calls:
        device.call_failure = IpcError("no answer")
    else:
        device.failures = [IpcError("no socket")] * 1000

    ending = Running(service(device, give_up_s=0.5)).wait()

    assert isinstance(ending, ServiceError)
    assert "no device for" in str(ending)
    assert len(device.clients) < 20


def test_a_call_that_fails_after_long_service_is_no_reason_to_give_up() -> None:
    device = FakeDevice()
    made = service(device)
    running = Running(made)
    first = device.wait_for(1)
    wait_for(lambda: first.reports == 1)
    made._served_at -= 3600  # it serves for an hour

    first.failure = IpcError("no answer")
    first.on_change()
    device.wait_for(2)
    made.stop()

    assert running.wait() is Event.STOP


def test_pauses_between_connections_begin_anew_once_one_serves() -> None:
    device = FakeDevice()
    device.failures = [IpcError("no socket")] * 3
    made = service(device)
    made._back_off = pauses = Pauses()  # type: ignore[assignment]
    running = Running(made)
    device.wait_for(1).lose()
    device.wait_for(2)
    made.stop()

    assert running.wait() is Event.STOP
    assert pauses.asked == [1, 2, 3, 1]


def test_a_configuration_is_read_once_for_changes_that_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connected_service, "SETTLE_S", 1.0)
    device = FakeDevice()
    made = service(device)
    running = Running(made)
    client = device.wait_for(1)
    wait_for(lambda: client.reads == 1)

    for _ in range(5):
        client.on_change()
    wait_for(lambda: client.reads > 1)
    time.sleep(0.2)
    made.stop()

    assert running.wait() is Event.STOP
    assert client.reads == 2


def test_a_refused_call_ends_it() -> None:
    device = FakeDevice()
    device.call_failure = RefusedError("reading the configuration is refused")

    assert str(Running(service(device)).wait()) == "reading the configuration is refused"


def test_ends_when_the_device_refuses_it() -> None:
    device = FakeDevice()
    device.failures = [RefusedError("unknown token")]

    assert str(Running(service(device)).wait()) == "unknown token"


def test_can_be_stopped_while_it_waits_for_a_device() -> None:
    device = FakeDevice()
    device.failures = [IpcError("no socket")] * 1000
    made = service(device)
    running = Running(made)

    made.stop()

    assert running.wait() is Event.STOP


@pytest.mark.parametrize("connected", [True, False])
def test_a_signal_that_wakes_nobody_stops_it_soon(connected: bool) -> None:
    device = FakeDevice()
    made = service(device)
    made._renew_s = 1e6
    if not connected:
        device.failures = [IpcError("away")] * 100
        made._back_off = BackOff(60, 60)
    before = signal.signal(signal.SIGUSR1, lambda *_: made.stop())
    # Caught by another thread it leaves the main one's wait alone, as one does that comes just before that begins.
    caught = threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    late = threading.Timer(90, made.stop)
    try:
        caught.start()
        late.start()
        began = time.monotonic()
        assert made.run() is Event.STOP
        assert time.monotonic() - began < 60
    finally:
        late.cancel()
        caught.join()
        signal.signal(signal.SIGUSR1, before)


def test_ends_for_a_new_start_when_its_environment_is_replaced() -> None:
    device = FakeDevice()

    assert Running(service(device, is_outdated=lambda: bool(device.clients))).wait() is Event.RUNTIME_CHANGED


def test_subscriptions_are_made_anew_where_nothing_was_heard() -> None:
    device = FakeDevice()
    made = service(device)
    made._renew_s = 0.2
    running = Running(made)
    client = device.wait_for(1)
    wait_for(lambda: bool(client.renewals))
    made.stop()

    assert running.wait() is Event.STOP
    assert set(client.renewals) == {0.2}


def test_settings_that_the_device_tells_nobody_of_are_found_and_taken_once() -> None:
    device = FakeDevice()
    made = service(device, checks=[lambda found: lambda: taken.append(found)])
    taken: list[object] = []
    made._renew_s = 0.2
    running = Running(made)
    client = device.wait_for(1)
    wait_for(lambda: len(client.renewals) > 2)
    assert taken == [{"models": {}}]

    client.settings = {"models": {}, "heartbeatSeconds": 7}
    wait_for(lambda: len(taken) == 2)
    seen = len(client.renewals)
    wait_for(lambda: len(client.renewals) > seen + 2)
    made.stop()

    assert running.wait() is Event.STOP
    assert taken == [{"models": {}}, client.settings]
    assert len(device.clients) == 1


def test_settings_that_cannot_be_read_are_read_again_later() -> None:
    device = FakeDevice()
    made = service(device)
    made._renew_s = 0.2
    running = Running(made)
    client = device.wait_for(1)
    wait_for(lambda: bool(client.renewals))
    client.failure = IpcError("no answer")
    seen = client.reads
    wait_for(lambda: client.reads > seen + 1)
    made.stop()

    assert running.wait() is Event.STOP
    assert len(device.clients) == 1


@pytest.mark.parametrize(
    ("exchange", "url", "ending"),
    [
        ({"port": "4712"}, "http://localhost:4712/2016-11-01/credentialprovider/", Event.RUNTIME_CHANGED),
        ({"port": 4712}, "http://localhost:4712/2016-11-01/credentialprovider/", Event.RUNTIME_CHANGED),
        ({"port": "4711"}, "", Event.STOP),
        ({"port": 0}, "", Event.STOP),
        ({"port": "any"}, "", Event.STOP),
        ({}, "", Event.STOP),
        (None, "", Event.STOP),
        (RefusedError("no such component"), "", Event.STOP),
        (IpcError("no answer"), "", Event.STOP),
    ],
)
def test_credentials_that_have_moved_to_another_port_are_followed_by_a_new_start(
    exchange: object, url: str, ending: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "http://localhost:4711/2016-11-01/credentialprovider/"
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", before)
    device = FakeDevice()
    made = service(device)
    made._renew_s = 0.2
    running = Running(made)
    client = device.wait_for(1)
    client.exchange = exchange
    if ending is Event.STOP:
        wait_for(lambda: len(client.renewals) > 3)
        made.stop()

    assert running.wait() is ending
    assert os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] == (url or before)


@pytest.mark.parametrize("may_end", [True, False])
def test_a_device_that_has_forgotten_the_process_ends_it_unless_that_would_be_for_good(may_end: bool) -> None:
    device = FakeDevice()
    made = service(device, may_end=lambda: may_end)
    running = Running(made)
    first = device.wait_for(1)

    device.failures = [RefusedError("the device does not know this process")]
    first.lose()

    if may_end:
        assert isinstance(running.wait(), ServiceError)
        return
    device.wait_for(2)
    made.stop()
    assert running.wait() is Event.STOP


def test_who_was_asked_to_look_at_once_looks_and_rests_again() -> None:
    device, looks = FakeDevice(), list[int]()
    made = service(device, on_watch=lambda _endpoints: looks.append(1))
    running = Running(made)
    device.wait_for(1)

    made.look()
    wait_for(lambda: not made._look.is_set())

    before = len(looks)
    wait_for(lambda: len(looks) > before)
    made.stop()
    assert running.wait() is Event.STOP


def test_what_fails_while_it_looks_around_is_told_and_the_looks_go_on(caplog: pytest.LogCaptureFixture) -> None:
    device, looks = FakeDevice(), list[int]()

    def look(_endpoints: object) -> None:
        looks.append(1)
        raise ArithmeticError("no heartbeat")

    made = service(device, on_watch=look)
    running = Running(made)
    device.wait_for(1)

    wait_for(lambda: len(looks) >= 3)
    made.stop()

    assert running.wait() is Event.STOP
    assert "no heartbeat" in caplog.text
