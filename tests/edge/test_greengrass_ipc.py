"""What the SDK's client answers, as the component takes it; the SDK itself runs in test_component_process."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from unittest.mock import Mock

import pytest
from awsiot.greengrasscoreipc.model import ServiceError, UnauthorizedError

from edge_component import greengrass_ipc
from edge_component.greengrass_ipc import GreengrassIpc, _Lifecycle, _Subscription
from edge_component.ipc import IpcError, RefusedError


class Client:
    """The SDK's client, as far as publishing goes."""

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.written: Future[None] = Future()
        self.failure: Exception | None = None
        self.client = self

    def new_publish_to_iot_core(self) -> "Client":
        return self

    new_get_configuration = new_update_state = new_publish_to_iot_core

    def subscribe_to_iot_core_async(self, **_request: Any) -> tuple["Future[None]", "Client"]:
        return self.activate(None), self

    subscribe_to_configuration_update_async = subscribe_to_iot_core_async

    def get_response(self) -> "Future[None]":
        return self.future

    def activate(self, _request: Any) -> "Future[None]":
        if self.failure:
            raise self.failure
        return self.written


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def ipc(client: Client) -> GreengrassIpc:
    made: Any = client
    return GreengrassIpc(made, greengrass_ipc._Lifecycle(lambda: None))


def test_a_publication_is_on_its_way_until_the_device_has_taken_it(ipc: GreengrassIpc, client: Client) -> None:
    publication = ipc.publish("t", b"1")

    assert not publication.wait(0)
    client.future.set_result(None)
    assert publication.wait(0)


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (ServiceError(message="too many messages in flight"), IpcError, "publishing on t: too many messages in flight"),
        (UnauthorizedError(message="not in accessControl"), RefusedError, "publishing on t is refused: not in access"),
        (TimeoutError(), IpcError, "publishing on t: TimeoutError"),
    ],
)
def test_a_publication_that_fails_says_why(
    ipc: GreengrassIpc, client: Client, failure: Exception, kind: type[Exception], text: str
) -> None:
    publication = ipc.publish("t", b"1")
    client.future.set_exception(failure)

    with pytest.raises(kind, match=text):
        publication.wait(0)


def test_a_cancelled_publication_is_tried_again(ipc: GreengrassIpc, client: Client) -> None:
    publication = ipc.publish("t", b"1")
    client.future.cancel()

    with pytest.raises(IpcError, match="CancelledError"):
        publication.wait(0)


def test_a_publication_without_an_answer_ends(
    ipc: GreengrassIpc, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    del client
    monkeypatch.setattr(greengrass_ipc, "CALL_LIMIT_S", 0)
    publication = ipc.publish("t", b"1")

    with pytest.raises(IpcError, match="TimeoutError"):
        publication.wait(0)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("publishing on t", lambda ipc: ipc.publish("t", b"1")),
        ("subscribing to t", lambda ipc: ipc.subscribe("t", print)),
        ("reading the configuration", lambda ipc: ipc.configuration()),
        ("watching the configuration", lambda ipc: ipc.watch_configuration(print)),
        ("reporting the state", lambda ipc: ipc.report_running()),
    ],
)
def test_a_call_on_a_connection_that_has_just_ended_is_another_attempt(
    ipc: GreengrassIpc, client: Client, what: str, call: Callable[[GreengrassIpc], object]
) -> None:
    client.failure = RuntimeError("the connection is closed")

    with pytest.raises(IpcError, match=f"{what}: the connection is closed"):
        call(ipc)


def test_the_end_of_a_connection_is_told_once() -> None:
    told: list[bool] = []
    lifecycle = greengrass_ipc._Lifecycle(lambda: told.append(True))

    assert lifecycle.on_error(ValueError("garbage")), "the connection is closed"
    lifecycle.on_disconnect(ValueError("garbage"))
    lifecycle.on_disconnect(None)

    assert lifecycle.lost
    assert told == [True]


def test_without_a_device_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", raising=False)
    monkeypatch.delenv("SVCUID", raising=False)

    with pytest.raises(RefusedError, match="a device must start this process: the environment lacks"):
        greengrass_ipc.connect(lambda: None)


def test_a_socket_that_nobody_serves_is_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", "/nowhere/ipc.sock")
    monkeypatch.setenv("SVCUID", "token")

    with pytest.raises(IpcError, match="connecting to the device"):
        greengrass_ipc.connect(lambda: None)


def test_a_publication_that_cannot_be_written_is_another_attempt(ipc: GreengrassIpc, client: Client) -> None:
    publication = ipc.publish("t", b"1")
    client.written.set_exception(RuntimeError("the socket is closed"))

    with pytest.raises(IpcError, match="publishing on t: the socket is closed"):
        publication.wait(0)


@pytest.mark.parametrize(
    ("error", "closes"),
    [(RecursionError("maximum recursion depth"), False), (ValueError("no JSON"), False), (ServiceError(), True)],
)
def test_a_message_that_cannot_be_read_costs_no_connection(error: Exception, closes: bool) -> None:
    subscription = greengrass_ipc._Subscription(greengrass_ipc._Lifecycle(lambda: None), "subscribing to t")

    assert subscription._on_stream_error(error) is closes


def test_a_subscription_that_is_not_answered_is_ended() -> None:
    answer, operation = Future[None](), Mock()
    answer.set_exception(TimeoutError())

    with pytest.raises(IpcError, match="subscribing"):
        _Subscription(_Lifecycle(lambda: None), "subscribing").open(lambda **_: (answer, operation))

    operation.close.assert_called_once_with()


def test_a_stream_that_ends_with_its_answer_is_as_bad_as_a_lost_connection() -> None:
    answer, lost = Future[None](), Mock()
    answer.set_result(None)
    lifecycle = _Lifecycle(lost)

    def subscribe(on_stream_closed: Callable[[], None], **_: Any) -> tuple["Future[None]", Mock]:
        on_stream_closed()
        return answer, Mock()

    _Subscription(lifecycle, "subscribing").open(subscribe)

    assert lifecycle.lost
    lost.assert_called_once_with()
