"""`up --aws-rates`: calls are as many a second as an account with default quotas may make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.twin.conftest import wait_until
from twin import TwinError, lifecycle
from twin.cloud.rates import RATES, Throttle
from twin.state import TwinState


@pytest.fixture(scope="module")
def throttling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("rates")
    try:
        yield lifecycle.start(home, aws_rates=True)
    finally:
        lifecycle.stop(home, anyway=True)


def client(state: TwinState, attempts: int) -> Any:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts})
    return boto3.client("iot", config=config, **state.client_arguments())


class Time:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_a_second_of_calls_and_fills_at_its_rate() -> None:
    time = Time()
    throttle = Throttle(time)

    def taken(what: str, calls: int) -> int:
        return sum(throttle.allows(what, "account", "region") for _ in range(calls))

    assert taken("iot:ListThings", 30) == 10
    time.now += 0.5
    assert taken("iot:ListThings", 30) == 5
    time.now += 3600
    assert taken("iot:ListThings", 30) == 10
    assert throttle.refused == {"iot:ListThings": 65}


def test_accounts_and_regions_have_their_own_and_calls_without_a_quota_none() -> None:
    throttle = Throttle(Time())

    assert [throttle.allows("iot:CreateJob", "a", "r") for _ in range(11)] == [True] * 10 + [False]
    assert throttle.allows("iot:CreateJob", "b", "r")
    assert throttle.allows("iot:CreateJob", "a", "other")
    assert all(throttle.allows("s3:PutObject", "a", "r") for _ in range(10_000))


def test_each_rate_names_its_source() -> None:
    for what, rate in RATES.items():
        assert rate.per_second > 0, what
        assert rate.source.startswith(("Service Quotas, AWS IoT Core, L-", "AWS IoT Developer Guide, ")), what


def test_calls_beyond_the_rate_are_throttled_and_retries_get_through(throttling: TwinState) -> None:
    impatient, patient = client(throttling, 1), client(throttling, 10)
    refused = set()

    def too_many() -> bool:
        """Sixty calls at once; a busy machine may need a while until ten of them come within a second."""
        for _ in range(60):
            try:
                impatient.list_jobs()
            except ClientError as exc:
                refused.add((exc.response["Error"]["Code"], exc.response["ResponseMetadata"]["HTTPStatusCode"]))
        return bool(refused)

    wait_until(too_many, 120)

    assert refused == {("ThrottlingException", 429)}
    for _ in range(60):
        impatient.list_thing_types()
    for _ in range(15):
        patient.list_jobs()


def test_other_services_and_the_twins_own_paths_are_not_throttled(throttling: TwinState) -> None:
    sts = boto3.client("sts", config=Config(retries={"total_max_attempts": 1}), **throttling.client_arguments())

    for _ in range(50):
        assert sts.get_caller_identity()["Account"] == throttling.account


def test_a_running_twin_keeps_its_rates(throttling: TwinState) -> None:
    with pytest.raises(TwinError, match="--aws-rates must come with the twin's start"):
        lifecycle.start(Path(throttling.home), aws_rates=True)
