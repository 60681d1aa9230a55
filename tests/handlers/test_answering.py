"""CloudFormation gets one answer to each event, and nobody else learns where it goes."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from edge_handlers import answering as module
from edge_handlers.answering import GIVEN_UP, NEVER_MADE, WAITER, WAITING, AnswerError, NotDoneError, answering
from tests.handlers.event import Context

MACHINE = "arn:aws:states:eu-west-1:111122223333:stateMachine:waiter"


class Cloud:
    """What CloudFormation got, over HTTP; refuses as often as it is told."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []
        self.types: list[str | None] = []
        self.refusals = 0
        cloud = self

        class Listener(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if cloud.refusals:
                    cloud.refusals -= 1
                    self.send_response(503)
                else:
                    cloud.answers.append(json.loads(body))
                    cloud.types.append(self.headers["Content-Type"])
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
    """Step Functions, as far as it is started."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []

    def start_execution(self, **arguments: Any) -> None:
        self.started.append(arguments)


@pytest.fixture
def machine(serve: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Machine:
    serve(stepfunctions=(machine := Machine()))
    monkeypatch.setenv(WAITER, MACHINE)
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
    assert len(json.dumps(failed)) < 4096
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


def test_an_answer_that_nobody_takes_is_an_error_without_the_address(cloud: Cloud) -> None:
    cloud.refusals = 100

    with pytest.raises(AnswerError, match=r"must take the answer, got HTTP status 503 6 times from 127.0.0.1$"):
        answering(lambda *_: None)(cloud.event(), Context())


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


def test_longer_work_is_asked_for_by_the_state_machine(
    cloud: Cloud, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EAGER_S", 0.0)
    done = False
    entry = answering(lambda *_: {"PhysicalResourceId": "id"}, lambda *_: {"IsComplete": done})

    entry(cloud.event(), Context())

    (started,) = machine.started
    assert (started["stateMachineArn"], started["name"]) == (MACHINE, "r-1")
    told = json.loads(started["input"])
    assert told[WAITING]["PhysicalResourceId"] == "id"
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
