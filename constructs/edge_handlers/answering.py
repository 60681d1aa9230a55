"""What CloudFormation is told of a custom resource: one answer to each event, whatever becomes of the handler.

A handler returns data or raises. The entry point that `answering` makes of it sends the answer to the address that the
event carries, which lets anybody answer for the resource: no handler sees it, and nothing logs it. Where there is work
to wait for, the entry point asks for a few seconds by itself; after that a state machine calls it at intervals.
"""

import http.client
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from edge_handlers.service_client import client

LOG = logging.getLogger(__name__)
#: Environment variable: ARN of the state machine that goes on asking.
WAITER = "WAITER"
#: Keys of its input: the event so far, and why it has given up.
WAITING, GIVEN_UP = "Waiting", "GivenUp"
#: Id of what a Create that failed at once has made: nothing. The CDK's provider framework, which stages of former
#: releases have, writes the same.
NEVER_MADE = "AWSCDK::CustomResourceProviderFramework::CREATE_FAILED"
#: Work that ends so soon needs no state machine.
EAGER_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0
#: Before Lambda ends the function, so that the failure is told and not waited for.
_MARGIN_S = 5.0
_ATTEMPTS, _PAUSE_S, _SEND_S = 6, 0.5, 20.0
#: CloudFormation takes 4,096 bytes in all; data are few and short.
_REASON_CHARACTERS = 2000

Entry = Callable[[dict[str, Any], Any], Any]


class NotDoneError(RuntimeError):
    """The work goes on: the state machine asks again."""


class AnswerError(RuntimeError):
    """CloudFormation did not take the answer."""


def answering(on_event: Entry, is_complete: Entry | None = None) -> Entry:
    """Make a Lambda function's entry point of a handler.

    Args:
        on_event: Takes an event without its address; returns PhysicalResourceId and Data, or raises.
        is_complete: Takes the same event with all that `on_event` returned; returns IsComplete and Data, or raises.
            Without it there is nothing to wait for.

    Returns:
        The entry point, for CloudFormation and for the state machine.
    """

    def handler(event: dict[str, Any], context: Any) -> None:
        if GIVEN_UP in event:
            answer = _Answer(event[WAITING])
            answer.fail("it is not done in the time that it has; look at what it made, and deploy again")
        elif WAITING in event:
            answer = _Answer(event[WAITING])
            if not is_complete or not _done(answer, is_complete, context):
                raise NotDoneError(f"{answer}: not done yet")
        else:
            _begin(_Answer(event), on_event, is_complete, context)

    return handler


class _Answer:
    """An event, what is known of its resource so far, and the one answer to it."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self._url = str(event.get("ResponseURL", ""))
        self.event = {key: value for key, value in event.items() if key != "ResponseURL"}
        self._lock = threading.Lock()
        self._sent = False

    def __str__(self) -> str:
        return f"{self.event.get('RequestType')} of {self.event.get('LogicalResourceId')}"

    def add(self, returned: Any) -> None:
        """Take in what the handler returned."""
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(f"a handler must return a mapping or nothing, got {type(returned).__name__}")
        found = dict(returned or {})
        before = self.event.get("PhysicalResourceId")
        now = found.get("PhysicalResourceId") or before or self.event.get("RequestId")
        if self.event.get("RequestType") == "Delete" and now != before:
            raise ValueError(f"a Delete must keep the physical id {before!r}, got {now!r}")
        # What else it returned is for its own next look.
        self.event = {**found, **self.event, "PhysicalResourceId": now}
        self.event["Data"] = {**(self.event.get("Data") or {}), **(found.get("Data") or {})}

    def waiting(self) -> dict[str, Any]:
        """The state machine's input."""
        return {WAITING: {**self.event, "ResponseURL": self._url}}

    def succeed(self) -> None:
        """Say that it is done."""
        self._send("SUCCESS", "")

    def fail(self, reason: str) -> None:
        """Say why it is not done."""
        self._send("FAILED", reason[:_REASON_CHARACTERS])

    def _send(self, status: str, reason: str) -> None:
        with self._lock:
            if self._sent:
                return
            self._sent = True
        told = {
            "Status": status,
            "Reason": reason,
            "StackId": self.event.get("StackId"),
            "RequestId": self.event.get("RequestId"),
            "LogicalResourceId": self.event.get("LogicalResourceId"),
            "PhysicalResourceId": self.event.get("PhysicalResourceId") or NEVER_MADE,
            "Data": self.event.get("Data") or {},
        }
        LOG.info("%s: %s %s", self, status, reason)
        _put(self._url, json.dumps(told).encode())


def _begin(answer: _Answer, on_event: Entry, is_complete: Entry | None, context: Any) -> None:
    event = answer.event
    if event.get("RequestType") == "Delete" and event.get("PhysicalResourceId") == NEVER_MADE:
        answer.succeed()
        return
    seconds = context.get_remaining_time_in_millis() / 1000 - _MARGIN_S
    watch = threading.Timer(max(seconds, 0.0), answer.fail, ["the function's time is over; run the same command again"])
    watch.daemon = True
    watch.start()
    try:
        answer.add(on_event(dict(event), context))
        if is_complete is None:
            answer.succeed()
        elif not _soon(answer, is_complete, context):
            client("stepfunctions").start_execution(
                stateMachineArn=os.environ[WAITER], name=str(event["RequestId"]), input=json.dumps(answer.waiting())
            )
    except AnswerError:
        raise
    except Exception as exc:
        LOG.exception("%s failed", answer)
        answer.fail(_words(exc))
    finally:
        watch.cancel()


def _soon(answer: _Answer, is_complete: Entry, context: Any) -> bool:
    """Whether the work is done within seconds; a handler of little time left is not asked."""
    pause, end = _FIRST_PAUSE_S, time.monotonic() + EAGER_S
    while not _done(answer, is_complete, context):
        left = context.get_remaining_time_in_millis() / 1000
        if time.monotonic() + pause > end or left < 2 * EAGER_S:
            return False
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE_S)
    return True


def _done(answer: _Answer, is_complete: Entry, context: Any) -> bool:
    """Ask once; the answer is sent when there is one, a failure included."""
    try:
        found = is_complete(dict(answer.event), context)
        if not found.get("IsComplete"):
            return False
        answer.add({"Data": found.get("Data")})
    except Exception as exc:
        LOG.exception("%s failed", answer)
        answer.fail(_words(exc))
        return True
    answer.succeed()
    return True


def _words(error: Exception) -> str:
    log = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
    return f"{type(error).__name__}: {error}" + (f" (log: {log})" if log else "")


def _put(url: str, body: bytes) -> None:
    """Send an answer; the address is signed for a request without a content type."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    for attempt in range(1, _ATTEMPTS + 1):
        connection = kind(parts.hostname or "", parts.port, timeout=_SEND_S)
        try:
            connection.request("PUT", target, body, {"Content-Type": ""})
            status = connection.getresponse().status
            if status < 400:
                return
            problem = f"HTTP status {status}"
        except OSError as exc:
            problem = type(exc).__name__
        finally:
            connection.close()
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_S * 2**attempt)
    raise AnswerError(f"CloudFormation must take the answer, got {problem} {_ATTEMPTS} times from {parts.hostname}")
