"""CloudFormation gets one answer to each event, and nobody else learns where it goes."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from edge_handlers import answering as module
from edge_handlers.answering import (
    ANSWER_BYTES,
    CALLED_OFF,
    GIVEN_UP,
    LIMIT_S,
    NEVER_MADE,
    UNTIL,
    WAITER,
    WAITING,
    AnswerError,
    NotDoneError,
    answering,
)
from edge_handlers.service_client import explaining
from tests.handlers.event import Context

MACHINE = "arn:aws:states:eu-west-1:111122223333:stateMachine:waiter"


class Cloud:
    """What CloudFormation got, over HTTP; refuses as often as it is told."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.types: list[str | None] = []
        self.sizes: list[int] = []
        self.refusals = 0
        self.refusal = b"HTTP/1.0 503 Slow Down\r\n\r\n"
        cloud = self

        class Listener(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if cloud.refusals:
                    cloud.refusals -= 1
                    self.wfile.write(cloud.refusal)
                    return
                cloud.answers.append(json.loads(body))
                cloud.types.append(self.headers["Content-Type"])
                cloud.sizes.append(len(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Listener)
        self.url = f"http://127.0.0.1:{self._server.server_port}/answer?Signature=secret"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def event(self, kind: str = "Create", **more: Any) -> dict[str, Any]:
        told = {"RequestType": kind, "ResponseURL": self.url, "StackId": "stack", "RequestId": "r-1"}
        return {**told, "LogicalResourceId": "Thing", "ResourceProperties": {"A": "1"}, **more}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    yield cloud
    cloud.stop()


class Machine:
    """Step Functions: a name is used once; the same name with another input is refused."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.dates: dict[str, datetime] = {}
        self.denied = False
        self.forgetful = False  # the listing is of a moment ago

    def start_execution(self, **arguments: Any) -> None:
        if any(arguments["name"] == each["name"] and arguments != each for each in self.started):
            raise ClientError({"Error": {"Code": "ExecutionAlreadyExists"}}, "StartExecution")
        self.started.append(arguments)
        self.dates.setdefault(arguments["name"], datetime.now(UTC))

    def get_paginator(self, operation: str) -> "Machine":
        assert operation == "list_executions"
        return self

    def paginate(self, **asked: Any) -> list[dict[str, Any]]:
        assert asked == {"stateMachineArn": MACHINE, "statusFilter": "RUNNING"}
        if self.denied:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "ListExecutions")
        running = [name for name in self.dates if self.forgetful or name not in self.stopped]
        listed = [{"name": name, "executionArn": f"arn:{name}", "startDate": self.dates[name]} for name in running]
        return [{"executions": listed}]

    def stop_execution(self, *, executionArn: str, cause: str) -> None:  # noqa: N803
        assert cause
        self.stopped.append(executionArn.removeprefix("arn:"))


@pytest.fixture
def machine(serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Machine:
    serve(stepfunctions=(machine := Machine()))
    monkeypatch.setenv(WAITER, MACHINE)
    monkeypatch.setenv(LIMIT_S, "600")
    return machine


def test_what_a_handler_returns_is_the_answer(cloud: Cloud) -> None:
    answering(lambda *_: {"PhysicalResourceId": "id", "Data": {"Uri": "s3://a/b"}})(cloud.event(), Context())

    (answer,) = cloud.answers
    assert answer == {
        "Status": "SUCCESS",
        "Reason": "",
        "StackId": "stack",
        "RequestId": "r-1",
        "LogicalResourceId": "Thing",
        "PhysicalResourceId": "id",
        "Data": {"Uri": "s3://a/b"},
    }
    # The address is signed for a request without one.
    assert cloud.types == [""]


def test_no_handler_sees_the_address_and_no_log_has_it(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[dict[str, Any]] = []
    caplog.set_level(logging.DEBUG)

    answering(lambda event, _: seen.append(event))(cloud.event(), Context())

    assert "ResponseURL" not in seen[0]
    assert "secret" not in caplog.text
    assert cloud.answers[0]["PhysicalResourceId"] == "r-1"


def test_a_create_that_fails_made_nothing_and_its_delete_is_not_asked(cloud: Cloud) -> None:
    calls: list[str] = []

    def fail(event: dict[str, Any], _: Any) -> None:
        calls.append(event["RequestType"])
        raise ValueError("size must be at least 1, got 0" + "!" * 5000)

    answering(fail)(cloud.event(), Context())
    answering(fail)(cloud.event("Delete", PhysicalResourceId=NEVER_MADE), Context())

    failed, deleted = cloud.answers
    assert (failed["Status"], failed["PhysicalResourceId"]) == ("FAILED", NEVER_MADE)
    assert failed["Reason"].startswith("ValueError: size must be at least 1, got 0")
    assert len(json.dumps(failed)) <= ANSWER_BYTES
    assert (deleted["Status"], calls) == ("SUCCESS", ["Create"])


def test_an_update_that_fails_keeps_its_id(cloud: Cloud) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no")

    answering(fail)(cloud.event("Update", PhysicalResourceId="before"), Context())

    assert cloud.answers[0]["PhysicalResourceId"] == "before"


@pytest.mark.parametrize(
    ("kind", "returned", "reason"),
    [
        ("Create", "text", "a handler must return a mapping or nothing, got str"),
        ("Delete", {"PhysicalResourceId": "other"}, "a Delete must keep the physical id 'before', got 'other'"),
    ],
)
def test_an_answer_that_is_none_fails(cloud: Cloud, kind: str, returned: Any, reason: str) -> None:
    answering(lambda *_: returned)(cloud.event(kind, PhysicalResourceId="before"), Context())

    assert cloud.answers[0]["Status"] == "FAILED"
    assert reason in cloud.answers[0]["Reason"]


def test_an_answer_is_sent_again_until_it_is_taken(cloud: Cloud, pauses: list[float]) -> None:
    cloud.refusals = 3

    answering(lambda *_: None)(cloud.event(), Context())

    assert len(cloud.answers) == 1
    assert len([pause for pause in pauses if pause]) >= 3


def test_an_answer_that_nobody_takes_is_an_error_without_the_address(cloud: Cloud, pauses: list[float]) -> None:
    cloud.refusals = 100

    with pytest.raises(AnswerError, match=r"must take the answer, got HTTP status 503 6 times from 127.0.0.1$"):
        answering(lambda *_: None)(cloud.event(), Context())
    assert len(pauses) == 5  # none behind the last


@pytest.mark.parametrize("ends", [True, False])
def test_nobody_answers_for_an_event_that_is_over_or_awaited(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    watches: list[threading.Timer] = []

    class Watch(threading.Timer):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            watches.append(self)

    monkeypatch.setattr(threading, "Timer", Watch)

    answering(lambda *_: None, lambda *_: {"IsComplete": ends})(cloud.event(), Context(seconds=19))

    (watch,) = watches
    watch.join(30)
    assert not watch.is_alive()
    assert watch.finished.is_set()
    assert [answer["Status"] for answer in cloud.answers] == (["SUCCESS"] if ends else [])
    assert len(machine.started) == (not ends)


def test_a_function_of_little_time_asks_once(cloud: Cloud, machine: Machine, pauses: list[float]) -> None:
    answering(lambda *_: None, lambda *_: {"IsComplete": False})(cloud.event(), Context(seconds=19))

    assert not pauses
    assert len(machine.started) == 1


def test_work_that_ends_soon_needs_no_state_machine(cloud: Cloud, machine: Machine) -> None:
    looks = iter([False, False, True])

    def look(event: dict[str, Any], _: Any) -> dict[str, Any]:
        assert (event["PhysicalResourceId"], event["Until"]) == ("id", 7)
        done = next(looks)
        return {"IsComplete": done, **({"Data": {"Uri": "u"}} if done else {})}

    begun = {"PhysicalResourceId": "id", "Data": {"Job": "j"}, "Until": 7}
    answering(lambda *_: begun, look)(cloud.event(), Context())

    assert cloud.answers[0]["Data"] == {"Job": "j", "Uri": "u"}
    assert machine.started == []


def test_work_of_some_seconds_is_not_waited_for_much_longer_than_it_takes(
    cloud: Cloud, machine: Machine, pauses: list[float]
) -> None:
    looks = iter([*[False] * 13, True])

    answering(lambda *_: {"PhysicalResourceId": "id"}, lambda *_: {"IsComplete": next(looks)})(cloud.event(), Context())

    assert len(pauses) == 13
    assert all(pause <= 0.2 + 0.15 * sum(pauses[:number]) + 1e-9 for number, pause in enumerate(pauses))
    assert 6 < sum(pauses) < 10
    assert machine.started == []


def test_longer_work_is_asked_for_by_the_state_machine(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    done = False
    entry = answering(lambda *_: {"PhysicalResourceId": "id"}, lambda *_: {"IsComplete": done})

    entry(cloud.event(), Context())

    (started,) = machine.started
    assert started["stateMachineArn"] == MACHINE
    told = json.loads(started["input"])
    assert told[WAITING]["PhysicalResourceId"] == "id"
    assert 0 < told[UNTIL] - time.time() <= 600
    with pytest.raises(NotDoneError, match="Create of Thing: not done yet"):
        entry(told, Context())
    assert cloud.answers == []
    done = True
    entry(told, Context())
    assert [answer["Status"] for answer in cloud.answers] == ["SUCCESS"]


def test_work_that_fails_while_it_is_awaited_fails_with_its_id(cloud: Cloud, machine: Machine) -> None:
    def look(*_: Any) -> dict[str, Any]:
        raise RuntimeError("compilation job digits failed: OOM")

    answering(lambda *_: {"PhysicalResourceId": "id"}, look)(cloud.event(), Context())

    (answer,) = cloud.answers
    assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", "id")
    assert "compilation job digits failed: OOM" in answer["Reason"]
    assert machine.started == []


@pytest.mark.parametrize(
    "trouble",
    [
        ClientError({"Error": {"Code": "ThrottlingException"}}, "DescribeCompilationJob"),
        ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "DescribeCompilationJob"),
        EndpointConnectionError(endpoint_url="https://api.sagemaker"),
        ReadTimeoutError(endpoint_url="https://api.sagemaker"),
    ],
)
def test_trouble_that_passes_costs_a_question_and_not_the_work(
    cloud: Cloud, machine: Machine, pauses: list[float], trouble: Exception
) -> None:
    troubles = [trouble, trouble]

    def look(*_: Any) -> dict[str, Any]:
        with explaining("describe compilation job digits"):
            if troubles:
                raise troubles.pop()
        return {"IsComplete": True}

    answering(lambda *_: {"PhysicalResourceId": "id"}, look)(cloud.event(), Context())

    assert [answer["Status"] for answer in cloud.answers] == ["SUCCESS"]
    assert len(pauses) == 2


def test_trouble_that_does_not_pass_ends_with_the_time_and_its_reason(cloud: Cloud) -> None:
    def look(*_: Any) -> dict[str, Any]:
        raise ReadTimeoutError(endpoint_url="https://api.sagemaker")

    entry, waiting = answering(lambda *_: None, look), cloud.event(PhysicalResourceId="id")
    with pytest.raises(NotDoneError):
        entry({WAITING: waiting, UNTIL: module.now() + 60}, Context())
    entry({WAITING: waiting, UNTIL: module.now() - 1}, Context())

    assert [answer["Status"] for answer in cloud.answers] == ["FAILED"]
    assert "Read timeout on endpoint URL" in cloud.answers[0]["Reason"]


def test_trouble_is_told_where_another_question_as_long_would_not_end_in_time(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [1000.0]
    monkeypatch.setattr(module, "now", lambda: moments[0])

    def look(*_: Any) -> dict[str, Any]:
        moments[0] += 240
        raise ReadTimeoutError(endpoint_url="https://api.sagemaker")

    entry, waiting = answering(lambda *_: None, look), cloud.event(PhysicalResourceId="id")
    with pytest.raises(NotDoneError):
        entry({WAITING: waiting, UNTIL: 1500}, Context())
    entry({WAITING: waiting, UNTIL: 1500}, Context())

    assert "Read timeout on endpoint URL" in cloud.answers[0]["Reason"]


def test_a_wait_that_is_given_up_fails_by_name(cloud: Cloud) -> None:
    told = {WAITING: cloud.event(PhysicalResourceId="id"), GIVEN_UP: {"Error": "NotDoneError", "Cause": "{}"}}

    answering(lambda *_: None, lambda *_: {"IsComplete": False})(told, Context())

    assert cloud.answers[0]["Status"] == "FAILED"
    assert "it is not done in the time that it has" in cloud.answers[0]["Reason"]


def test_a_function_whose_time_is_over_says_so_before_it_is_stopped(cloud: Cloud) -> None:
    waited = threading.Event()

    def sleep(*_: Any) -> None:
        end = time.monotonic() + 30
        while not cloud.answers and time.monotonic() < end:
            waited.wait(0.01)

    answering(sleep)(cloud.event(), Context(seconds=5.1))

    assert [answer["Status"] for answer in cloud.answers] == ["FAILED"]
    assert "the function's time is over" in cloud.answers[0]["Reason"]


@pytest.mark.parametrize("character", ["!", '"', "ü", "\N{GRINNING FACE}"])
def test_a_reason_in_any_script_fits_into_what_cloudformation_takes(cloud: Cloud, character: str) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("size must be at least 1, got 0" + 9000 * character)

    answering(fail)(cloud.event(), Context())

    (size,) = cloud.sizes
    assert ANSWER_BYTES - 100 < size <= ANSWER_BYTES
    assert cloud.answers[0]["Reason"].startswith("ValueError: size must be at least 1, got 0")


def test_data_that_cloudformation_would_not_take_fail_by_name(cloud: Cloud) -> None:
    answering(lambda *_: {"PhysicalResourceId": "id", "Data": {"Uri": 4000 * "a"}})(cloud.event(), Context())

    (answer,) = cloud.answers
    assert (answer["Status"], answer["PhysicalResourceId"], answer["Data"]) == ("FAILED", "id", {})
    assert f"an answer must have at most {ANSWER_BYTES} bytes, got 41" in answer["Reason"]


def test_an_address_that_has_expired_ends_the_work_without_an_error(cloud: Cloud, pauses: list[float]) -> None:
    cloud.refusals, cloud.refusal = 100, b"HTTP/1.0 403 Forbidden\r\n\r\n"

    answering(lambda *_: None)(cloud.event(), Context())

    assert (cloud.refusals, pauses) == (99, [])


def test_an_answer_is_sent_again_after_a_reply_that_is_no_http(cloud: Cloud) -> None:
    cloud.refusals, cloud.refusal = 2, b"nonsense\r\n\r\n"

    answering(lambda *_: None)(cloud.event(), Context())

    assert [answer["Status"] for answer in cloud.answers] == ["SUCCESS"]


def _denied(code: str = "AccessDenied") -> dict[str, Any]:
    with explaining("copy a to b"):
        raise ClientError({"Error": {"Code": code, "Message": "no policy allows it"}}, "CopyObject")


def _denied_a_head() -> dict[str, Any]:
    return _denied("403")  # an answer without a body has no other code


def test_what_is_denied_at_first_is_asked_again(cloud: Cloud, machine: Machine, pauses: list[float]) -> None:
    begun: Iterator[Callable[[], Any]] = iter([_denied, _denied_a_head, dict])
    looked: Iterator[Callable[[], Any]] = iter([_denied, lambda: {"IsComplete": True}])

    def begin(*_: Any) -> Any:
        return next(begun)()

    def look(*_: Any) -> Any:
        return next(looked)()

    answering(begin, look)(cloud.event(), Context())

    assert [answer["Status"] for answer in cloud.answers] == ["SUCCESS"]
    assert pauses == [2.0, 4.0, 2.0]
    assert machine.started == []


def test_what_stays_denied_fails_by_name(cloud: Cloud, pauses: list[float]) -> None:
    answering(lambda *_: _denied())(cloud.event(), Context())

    assert cloud.answers[0]["Status"] == "FAILED"
    assert "cannot copy a to b" in cloud.answers[0]["Reason"]
    assert len(pauses) == 3


def test_an_event_that_lambda_delivers_twice_is_awaited_once(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    starts = iter([1, 2])
    entry = answering(lambda *_: {"Begun": next(starts)}, lambda *_: {"IsComplete": False})

    entry(cloud.event(), Context())
    entry(cloud.event(), Context())

    assert (len(machine.started), cloud.answers) == (1, [])


def test_an_event_that_cloudformation_repeats_under_the_same_id_is_awaited_again(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    entry = answering(lambda *_: None, lambda *_: {"IsComplete": False})

    entry(cloud.event(), Context())
    entry(cloud.event(), Context(request_id="i-2"))

    assert len({each["name"] for each in machine.started}) == 2
    assert cloud.answers == []


def test_a_wait_whose_questions_take_too_long_fails_before_cloudformation_gives_up(cloud: Cloud) -> None:
    told = {WAITING: cloud.event(PhysicalResourceId="id"), UNTIL: time.time() - 1}

    answering(lambda *_: None, lambda *_: {"IsComplete": False})(told, Context())

    assert cloud.answers[0]["Status"] == "FAILED"
    assert "it is not done in the time that it has" in cloud.answers[0]["Reason"]


def test_a_twin_whose_time_runs_ahead_gives_real_work_its_real_time(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    entry = answering(lambda *_: None, lambda *_: {"IsComplete": False})
    entry(cloud.event(), Context())
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + 86_400)

    with pytest.raises(NotDoneError):
        entry(json.loads(machine.started[0]["input"]), Context())
    assert cloud.answers == []


def test_a_later_event_ends_the_waiting_for_an_earlier_one_of_its_resource(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    entry = answering(lambda *_: None, lambda *_: {"IsComplete": False})
    entry(cloud.event(), Context())
    entry(cloud.event(LogicalResourceId="Other"), Context())

    entry(cloud.event("Delete", PhysicalResourceId="made up"), Context(request_id="i-2"))
    entry(cloud.event("Delete", PhysicalResourceId="made up"), Context(request_id="i-2"))

    assert machine.stopped == [machine.started[0]["name"]]
    (waiting,) = [json.loads(each["input"])[WAITING] for each in machine.started[2:]]
    assert 0 <= time.time() - waiting[CALLED_OFF] < 30


@pytest.mark.parametrize("denied", [False, True])
def test_a_create_whose_delete_came_while_it_began_is_not_waited_for(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)

    def begin(event: dict[str, Any], _: Any) -> None:
        if event["RequestType"] == "Create":
            # CloudFormation has cancelled the creation, which has no waiter yet that could be called off.
            entry(cloud.event("Delete", PhysicalResourceId="made up"), Context(request_id="i-2"))
            machine.denied = denied

    entry = answering(begin, lambda *_: {"IsComplete": False})
    entry(cloud.event(), Context())

    waiting = [json.loads(each["input"])[WAITING]["RequestType"] for each in machine.started]
    assert waiting == (["Delete", "Create"] if denied else ["Delete"])
    assert cloud.answers == []


def test_a_waiter_that_was_called_off_and_is_still_listed_overtakes_nobody(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    machine.forgetful = True
    entry = answering(lambda *_: None, lambda *_: {"IsComplete": False})

    entry(cloud.event(), Context())
    entry(cloud.event("Update", PhysicalResourceId="id"), Context(request_id="i-2"))

    assert [json.loads(each["input"])[WAITING]["RequestType"] for each in machine.started] == ["Create", "Update"]
