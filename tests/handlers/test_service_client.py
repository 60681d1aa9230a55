"""The real boto3 client, its connection replaced: what is retried, how often, and how long a call can take.

And how long a handler may work, of the time that its Lambda function has left.
"""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from edge_handlers import service_client
from edge_handlers.neo_compilation import retire
from edge_handlers.service_client import (
    MARGIN_S,
    AwsCallError,
    Deadline,
    DeadlineError,
    each_in_time,
    explaining,
    ignoring,
    settling,
)
from tests.handlers.fake_service import refusal

SHORTEST_FUNCTION_S = 300


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Let a real client of a service get these answers, (status, code) each; returns the operations sent."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    service_client.client.cache_clear()

    def connect(service: str, answers: list[tuple[int, str]]) -> list[str]:
        sent: list[str] = []

        def answer(request: Any, **_: Any) -> AWSResponse:
            status, code = answers[min(len(sent), len(answers) - 1)]
            sent.append(str(request.headers.get("X-Amz-Target", request.url)))
            body = f'{{"__type": "{code}", "message": "{code}"}}' if status >= 400 else "{}"
            if service == "s3":
                body = f"<Error><Code>{code}</Code></Error>" if status >= 400 else ""
            raw = type("Raw", (), {"stream": lambda self, **_: iter([body.encode()])})()
            return AWSResponse(request.url, status, {"x-amzn-ErrorType": code}, raw)

        service_client.client(service).meta.events.register("before-send", answer)
        return sent

    yield connect
    service_client.client.cache_clear()


CALLS: dict[str, tuple[int, str, Callable[[Any], Any]]] = {
    "iot": (429, "ThrottlingException", lambda client: client.delete_thing(thingName="a")),
    "greengrassv2": (429, "ThrottlingException", lambda client: client.delete_core_device(coreDeviceThingName="a")),
    "sagemaker": (
        400,
        "ThrottlingException",
        lambda client: client.delete_compilation_job(CompilationJobName="a"),
    ),
    "s3": (503, "SlowDown", lambda client: client.delete_object(Bucket="bucket", Key="a")),
}


@pytest.mark.parametrize("service", CALLS)
def test_five_throttled_answers_are_survived(wire: Callable[..., list[str]], pauses: list[float], service: str) -> None:
    status, code, call = CALLS[service]
    sent = wire(service, [(status, code)] * 5 + [(200, "")])

    call(service_client.client(service))

    assert len(sent) == 6
    assert len(pauses) == 5


def test_throttling_that_goes_on_is_reported(wire: Callable[..., list[str]]) -> None:
    sent = wire("sagemaker", [(400, "ThrottlingException")])

    with pytest.raises(AwsCallError, match=r"cannot delete compilation job a: .*ThrottlingException"):
        retire("a", service_client.client("sagemaker"))

    assert len(sent) == service_client.ATTEMPTS


def test_access_denied_is_not_retried(wire: Callable[..., list[str]]) -> None:
    sent = wire("sagemaker", [(400, "AccessDeniedException")])

    with pytest.raises(AwsCallError, match="AccessDeniedException"):
        retire("a", service_client.client("sagemaker"))

    assert len(sent) == 1


def test_a_call_ends_before_the_shortest_function_does(wire: Callable[..., list[str]]) -> None:
    wire("s3", [(200, "")])
    config = service_client.client("s3").meta.config

    attempts = config.retries["total_max_attempts"]
    back_off_s = sum(min(2**attempt, 20) for attempt in range(attempts - 1))
    assert attempts * (config.connect_timeout + config.read_timeout) + back_off_s < SHORTEST_FUNCTION_S


def test_a_client_is_made_once(wire: Callable[..., list[str]]) -> None:
    assert service_client.client("s3") is service_client.client("s3")


def test_ignores_only_the_codes_it_is_told() -> None:
    with ignoring("ResourceNotFoundException"):
        raise refusal("ResourceNotFoundException", "DeleteThing")
    with pytest.raises(ClientError, match="AccessDenied"), ignoring("ResourceNotFoundException"):
        raise refusal("AccessDenied", "DeleteThing")


def test_says_what_was_being_done() -> None:
    with pytest.raises(AwsCallError, match=r"cannot delete thing a: .*AccessDenied"), explaining("delete thing a"):
        raise refusal("AccessDenied", "DeleteThing")


def test_waits_for_a_change_to_settle_a_bounded_number_of_times(pauses: list[float]) -> None:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise refusal("DeleteConflictException", "DeleteCertificate")
        return "done"

    assert settling(call, "DeleteConflictException") == "done"
    assert pauses == [2.0, 2.0]

    def refuse() -> None:
        raise refusal("DeleteConflictException", "DeleteCertificate")

    with pytest.raises(ClientError):
        settling(refuse, "DeleteConflictException", attempts=4)
    assert len(pauses) == 2 + 3


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(service_client, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


def context(seconds: float) -> Any:
    return SimpleNamespace(get_remaining_time_in_millis=lambda: seconds * 1000)


@pytest.mark.parametrize(("share", "left_s"), [(1.0, 100.0), (0.5, 50.0), (0.1, 10.0)])
def test_a_share_is_one_of_the_time_before_the_margin_which_stays_whole(now: Any, share: float, left_s: float) -> None:
    assert Deadline.of(context(100 + MARGIN_S), share).remaining() == pytest.approx(left_s)


def test_what_is_under_way_is_named_once_the_time_is_over(now: Any) -> None:
    deadline = Deadline.of(context(100 + MARGIN_S))
    now.s += 99.9
    deadline.check("delete devices")

    now.s += 0.1
    with pytest.raises(DeadlineError, match="over while it was about to delete devices; run the same command again"):
        deadline.check("delete devices")
    assert deadline.remaining() == pytest.approx(0)


def test_a_function_that_has_less_than_the_margin_left_begins_nothing(now: Any) -> None:
    deadline = Deadline.of(context(MARGIN_S - 1), 0.5)

    with pytest.raises(DeadlineError):
        deadline.check("begin")


def test_the_first_error_ends_what_has_not_begun() -> None:
    began: list[str] = []

    def act(name: str) -> None:
        began.append(name)
        if name == "first":
            raise ValueError(name)
        time.sleep(0.02)

    with pytest.raises(ValueError, match="first"):
        each_in_time(Deadline(60), ["first", *map(str, range(500))], act, workers=1)

    assert len(began) < 501
