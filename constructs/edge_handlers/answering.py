"""What CloudFormation is told of a custom resource: one answer to each event, whatever becomes of the handler.

A handler returns data or raises. The entry point that `answering` makes of it sends the answer to the address that the
event carries, which lets anybody answer for the resource: no handler sees it, and nothing logs it. Where there is work
to wait for, the entry point asks for a few seconds by itself; after that a state machine calls it at intervals.
"""

import hashlib
import http.client
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from edge_handlers.service_client import client, error_code, ignoring, is_passing

LOG = logging.getLogger(__name__)
#: Environment variable: ARN of the state machine that goes on asking.
WAITER = "WAITER"
#: Environment variable: seconds from an event until it must be done, after which nothing is asked any more.
LIMIT_S = "LIMIT_S"
#: Keys of its input: the event so far, when its time is over (seconds since 1970), and why it has given up.
WAITING, UNTIL, GIVEN_UP = "Waiting", "Until", "GivenUp"
#: Key of an event: when what an earlier one still waited for was called off, seconds since 1970.
CALLED_OFF = "CalledOff"
#: How long a question that was under way then may go on: as long as its function may.
_LONGEST_CALL_S = 300.0
#: Id of what a Create that failed at once has made: nothing. The CDK's provider framework, which stages of former
#: releases have, writes the same.
NEVER_MADE = "AWSCDK::CustomResourceProviderFramework::CREATE_FAILED"
#: Work that ends so soon needs no state machine.
EAGER_S = 10.0
#: Work of some seconds, as on the twin, is not waited for much longer than it takes; there are 15 questions at most.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.2, 2.0, 1.15
#: Before Lambda ends the function, so that the failure is told and not waited for.
_MARGIN_S = 5.0
_ATTEMPTS, _PAUSE_S, _SEND_S = 6, 0.5, 20.0
#: What CloudFormation takes in all.
ANSWER_BYTES = 4096
#: The address has expired, or nobody waits there any more; repeating the event would do its work for nobody.
_NOBODY_WAITS = (403, 404)
#: A permission that the deploy granted a moment ago reaches all of AWS within seconds.
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedException", "403")  # the last: of S3 to a HEAD
_DENIED_PAUSES_S = (2.0, 4.0, 8.0)
_OVERDUE = "it is not done in the time that it has; look at what it made, and deploy again"

Entry = Callable[[dict[str, Any], Any], Any]


class NotDoneError(RuntimeError):
    """The work goes on: the state machine asks again."""


class AnswerError(RuntimeError):
    """CloudFormation did not take the answer."""


def now() -> float:
    """Seconds since 1970, for what bounds real work: on a twin at another speed `time.time()` runs ahead."""
    return datetime.now(UTC).timestamp()


def still_asked_s(event: Mapping[str, Any]) -> float:
    """Seconds for which the last question of a cancelled event may still be at work; zero or less when it has ended."""
    return float(event.get(CALLED_OFF, 0)) + _LONGEST_CALL_S - now()


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
            _Answer(event[WAITING]).fail(_OVERDUE)
        elif WAITING in event:
            answer, until = _Answer(event[WAITING]), event.get(UNTIL, math.inf)
            if is_complete and _done(answer, is_complete, context, until):
                return
            # A question takes time, too: the number of questions does not bound the wait.
            if now() < until:
                raise NotDoneError(f"{answer}: not done yet")
            answer.fail(_OVERDUE)
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

    def waiting(self, until: float) -> dict[str, Any]:
        """The state machine's input."""
        return {WAITING: {**self.event, "ResponseURL": self._url}, UNTIL: until}

    def succeed(self) -> None:
        """Say that it is done."""
        self._send("SUCCESS", "")

    def fail(self, reason: str) -> None:
        """Say why it is not done."""
        self._send("FAILED", reason)

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
        if (size := len(json.dumps(told))) > ANSWER_BYTES and status == "SUCCESS":
            told["Status"] = "FAILED"
            told["Reason"] = (
                f"an answer must have at most {ANSWER_BYTES} bytes, got {size}: return fewer or shorter Data"
            )
        if told["Status"] == "FAILED":
            told["Data"] = {}
        LOG.info("%s: %s %s", self, told["Status"], told["Reason"])
        _put(self._url, _fitting(told))


def _fitting(told: dict[str, Any]) -> bytes:
    """The answer as it is sent, the reason cut short where it would be too long."""
    while (excess := len(body := json.dumps(told).encode()) - ANSWER_BYTES) > 0 and told["Reason"]:
        # A character takes up to 12 bytes.
        told = {**told, "Reason": told["Reason"][: -max(1, excess // 12)]}
    return body


def _begin(answer: _Answer, on_event: Entry, is_complete: Entry | None, context: Any) -> None:
    event, began = answer.event, now()
    until = began + float(os.environ.get(LIMIT_S, 0))
    if event.get("RequestType") == "Delete" and event.get("PhysicalResourceId") == NEVER_MADE:
        answer.succeed()
        return
    seconds = context.get_remaining_time_in_millis() / 1000 - _MARGIN_S
    watch = threading.Timer(max(seconds, 0.0), answer.fail, ["the function's time is over; run the same command again"])
    watch.daemon = True
    watch.start()
    try:
        if is_complete and event.get("RequestType") != "Create" and _call_off(event, context):
            event[CALLED_OFF] = now()
        answer.add(_permitted(on_event, event, context))
        if is_complete is None:
            answer.succeed()
        elif _soon(answer, is_complete, context, until):
            return
        elif _is_overtaken(event, context, began):
            LOG.warning("%s was cancelled meanwhile, and a later event is at work: nothing more is done", answer)
        else:
            # Named after the invocation: an event that Lambda delivers twice is awaited once, and CloudFormation gives
            # an event that it repeats, after a failed deploy that it did not roll back, the same RequestId.
            with ignoring("ExecutionAlreadyExists"):
                client("stepfunctions").start_execution(
                    stateMachineArn=os.environ[WAITER],
                    name=_execution(event, context),
                    input=json.dumps(answer.waiting(until)),
                )
    except AnswerError:
        raise
    except Exception as exc:
        LOG.exception("%s failed", answer)
        answer.fail(_words(exc))
    finally:
        watch.cancel()


def _execution(event: Mapping[str, Any], context: Any) -> str:
    """Name of what waits for an event: the resource's first, so that a later event finds it."""
    resource = f"{event.get('StackId')}/{event.get('LogicalResourceId')}"
    return f"{hashlib.sha256(resource.encode()).hexdigest()[:20]}-{context.aws_request_id}"


def _others(event: Mapping[str, Any], context: Any) -> list[dict[str, Any]]:
    """What waits for other events of the resource."""
    own = _execution(event, context)
    pages = (
        client("stepfunctions")
        .get_paginator("list_executions")
        .paginate(stateMachineArn=os.environ[WAITER], statusFilter="RUNNING")
    )
    running = [dict(each) for page in pages for each in page["executions"]]
    resource = own.partition("-")[0]
    return [each for each in running if each["name"].partition("-")[0] == resource and each["name"] != own]


def _call_off(event: Mapping[str, Any], context: Any) -> bool:
    """End the waiting for earlier events of the resource: CloudFormation has cancelled them, and tells no handler."""
    # A waiter that goes on costs questions; it is no reason to fail.
    with ignoring(*_DENIED):
        earlier = _others(event, context)
        for each in earlier:
            client("stepfunctions").stop_execution(
                executionArn=each["executionArn"], cause="a later event of the same resource has come"
            )
        return bool(earlier)
    return False


def _is_overtaken(event: Mapping[str, Any], context: Any, began: float) -> bool:
    """Whether a later event of the resource is waited for: it came before there was a waiter that it could call off."""
    with ignoring(*_DENIED):
        # By its start: one that was called off a moment ago may still be listed.
        return any(each["startDate"].timestamp() > began for each in _others(event, context))
    return False


def _soon(answer: _Answer, is_complete: Entry, context: Any, until: float) -> bool:
    """Whether the work is done within seconds; a handler of little time left is not asked."""
    pause, end = _FIRST_PAUSE_S, time.monotonic() + EAGER_S
    while not _done(answer, is_complete, context, until):
        left = context.get_remaining_time_in_millis() / 1000
        if time.monotonic() + pause > end or left < 2 * EAGER_S:
            return False
        time.sleep(pause)
        pause = min(_GROWTH * pause, _LONGEST_PAUSE_S)
    return True


def _done(answer: _Answer, is_complete: Entry, context: Any, until: float) -> bool:
    """Ask once; the answer is sent when there is one, a failure included."""
    began = now()
    try:
        found = _permitted(is_complete, answer.event, context)
        if not found.get("IsComplete"):
            return False
        answer.add({"Data": found.get("Data")})
    except Exception as exc:
        # While another question that takes as long ends in time: else the reason would be lost.
        if is_passing(exc) and 2 * now() - began < until:
            LOG.warning("%s is asked for again: %s", answer, exc)
            return False
        LOG.exception("%s failed", answer)
        answer.fail(_words(exc))
        return True
    answer.succeed()
    return True


def _permitted(entry: Entry, event: Mapping[str, Any], context: Any) -> Any:
    """Call a handler, and again if it was denied what it has just been permitted."""
    for pause in _DENIED_PAUSES_S:
        try:
            return entry(dict(event), context)
        except Exception as exc:
            cause = exc if isinstance(exc, ClientError) else exc.__cause__
            denied = isinstance(cause, ClientError) and error_code(cause) in _DENIED
            if not denied or context.get_remaining_time_in_millis() / 1000 < 2 * EAGER_S + pause:
                raise
            LOG.warning("denied, asking again in %g s: %s", pause, exc)
            time.sleep(pause)
    return entry(dict(event), context)


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
            if status in _NOBODY_WAITS:
                LOG.error("CloudFormation does not wait for the answer any more: %s from %s", problem, parts.hostname)
                return
        except (OSError, http.client.HTTPException) as exc:
            problem = type(exc).__name__
        finally:
            connection.close()
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE_S * 2**attempt)
    raise AnswerError(f"CloudFormation must take the answer, got {problem} {_ATTEMPTS} times from {parts.hostname}")
