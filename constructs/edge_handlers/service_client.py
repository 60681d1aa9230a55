"""AWS clients with bounded calls, and what their errors mean to a handler.

One call takes at most `ATTEMPTS` x (`CONNECT_TIMEOUT_S` + `READ_TIMEOUT_S`) + 31 s of back-off = 241 s, below the
300 s that the shortest of the functions gets. Five throttled answers in a row are survived: the sixth attempt counts.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 6


class AwsCallError(RuntimeError):
    """A call was refused; the text says what was being done, which AWS's own message often does not."""


@functools.cache
def client(service: str) -> Any:
    """Return the one client of a service, made at its first use.

    Args:
        service: boto3's name of it, such as "s3".
    """
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    return boto3.client(service, config=config)


@functools.cache
def quick_client(service: str) -> Any:
    """Return the one client of a service for those who must answer within five seconds: two tries of 1.8 s at most.

    Args:
        service: boto3's name of it, such as "iot".
    """
    retries = {"mode": "standard", "total_max_attempts": 2}
    return boto3.client(service, config=Config(connect_timeout=0.8, read_timeout=1, retries=retries))


def error_code(error: ClientError) -> str:
    """Return the service's code, such as "ResourceNotFoundException"."""
    return str(error.response.get("Error", {}).get("Code", ""))


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
