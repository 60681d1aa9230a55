"""AWS clients with bounded calls, what their errors mean to a handler, and the moment by which it must have stopped.

One call takes at most `ATTEMPTS` x (`CONNECT_TIMEOUT_S` + `READ_TIMEOUT_S`) + 31 s of back-off = 241 s, below the
300 s that the shortest of the functions gets. Five throttled answers in a row are survived: the sixth attempt counts.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    # A function starts with more processor than it runs with. A synth, which wants the contracts alone, goes without.
    import boto3  # noqa: F401

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 6
#: What IoT and Greengrass say of a name that they do not know.
GONE = "ResourceNotFoundException"
THROTTLED = frozenset(("ThrottlingException", "TooManyRequestsException", "Throttling", "SlowDown"))
_ABSENT = (GONE, "ResourceNotFound", "NoSuchKey", "NotFound", "404")
_ABSENT_WORDS = ("could not find", "not found", "does not exist")


class AwsCallError(RuntimeError):
    """A call was refused; the text says what was being done, which AWS's own message often does not."""


@functools.cache
def client(service: str) -> Any:
    """Return the one client of a service, made at its first use.

    Args:
        service: boto3's name of it, such as "s3".
    """
    return _made(service, CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS)


@functools.cache
def quick_client(service: str) -> Any:
    """Return the one client of a service for those who must answer within five seconds: two tries of 1.8 s at most.

    Args:
        service: boto3's name of it, such as "iot".
    """
    return _made(service, 0.8, 1, 2)


def _made(service: str, connect_timeout: float, read_timeout: float, attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": attempts}
    return boto3.client(
        service, config=Config(connect_timeout=connect_timeout, read_timeout=read_timeout, retries=retries)
    )


def error_code(error: ClientError) -> str:
    """Return the service's code, such as "ResourceNotFoundException"."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_passing(error: Exception) -> bool:
    """Whether asking again may help: the service is busy or in trouble, or was not reached."""
    cause = error.__cause__ if isinstance(error, AwsCallError) else error
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(cause) in THROTTLED or status >= 500
    return isinstance(cause, HTTPClientError | ConnectionError)


def is_absent(error: ClientError) -> bool:
    """Whether a service says that there is nothing of that name; SageMaker does so by a ValidationException, too."""
    code = error_code(error)
    text = str(error).lower()
    return code in _ABSENT or (code == "ValidationException" and any(words in text for words in _ABSENT_WORDS))


def describe(call: Callable[..., Any], **arguments: Any) -> dict[str, Any] | None:
    """Ask for one thing by its name.

    Args:
        call: An operation that describes or gets it.
        arguments: Of the call.

    Returns:
        The answer; None where there is no such thing.
    """
    try:
        return dict(call(**arguments))
    except ClientError as exc:
        if is_absent(exc):
            return None
        raise


@contextmanager
def unless_absent() -> Iterator[None]:
    """Let the error pass that there is nothing of that name: what was to go has gone."""
    try:
        yield
    except ClientError as exc:
        if not is_absent(exc):
            raise


@contextmanager
def ignoring(*codes: str) -> Iterator[None]:
    """Let errors with one of these codes pass: what was asked for is so already."""
    try:
        yield
    except ClientError as exc:
        if error_code(exc) not in codes:
            raise


@contextmanager
def explaining(doing: str) -> Iterator[None]:
    """Name in an error what was being done ("copy s3://a/b to s3://c/d").

    Raises:
        AwsCallError: The service refused the call; the cause is its own error.
    """
    try:
        yield
    except ClientError as exc:
        raise AwsCallError(f"cannot {doing}: {exc}") from exc


def settling(call: Callable[[], Any], *codes: str, attempts: int = 6, pause_s: float = 2.0) -> Any:
    """Repeat a call while the service still refuses it for a change that has not reached all of its parts.

    Args:
        call: Takes nothing; must be safe to repeat.
        codes: The codes that mean "not yet"; any other error passes at once.
        attempts: How often to call, at least 1.
        pause_s: Seconds between two calls.

    Returns:
        What the call returns.

    Raises:
        ClientError: Still refused at the last attempt, or refused for another reason.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except ClientError as exc:
            if error_code(exc) not in codes or attempt == attempts:
                raise
            time.sleep(pause_s)
    raise ValueError(f"attempts must be at least 1, got {attempts}")


MARGIN_S = 20.0


class DeadlineError(TimeoutError):
    """The function's time is nearly over; what has been done stays done and the next try goes on from there."""


class Deadline:
    """A point in time, on the monotonic clock.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, context: Any, share: float = 1.0) -> "Deadline":
        """Return the deadline of an invocation: `MARGIN_S` before its Lambda function is stopped.

        Args:
            context: The Lambda context.
            share: Part of the time to use, above 0 to 1; the rest is for undoing what was done.
        """
        return cls(share * (context.get_remaining_time_in_millis() / 1000 - MARGIN_S))

    def remaining(self) -> float:
        """Seconds that are left, below zero when there are none."""
        return self._end - time.monotonic()

    def check(self, doing: str) -> None:
        """Go on only while there is time.

        Args:
            doing: What is under way and how far it is ("delete devices: 12 of 40 done").

        Raises:
            DeadlineError: The time is over.
        """
        if time.monotonic() >= self._end:
            raise DeadlineError(
                f"the function's time is over while it was about to {doing}; run the same command again"
            )


def each_in_time(deadline: Deadline, names: Sequence[str], act: Callable[[str], None], *, workers: int) -> bool:
    """Do it for each name, several at a time, while there is time; the first error ends it.

    Args:
        deadline: Checked before each name.
        names: What to work on.
        act: Does the work of one; may raise DeadlineError itself.
        workers: How many at a time.

    Returns:
        Whether all were done; if not, the time was over.
    """

    def in_time(name: str) -> bool:
        try:
            deadline.check(f"go on with {name}")
            act(name)
        except DeadlineError:
            return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(in_time, name) for name in names]
        try:
            done = [future.result() for future in futures]  # all of them: each may hold an error
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
    return all(done)
