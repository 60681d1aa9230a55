"""A function's last line does not bring back the log group that its stack has deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ministack.services import cloudwatch_logs, lambda_svc

from twin.cloud import functions
from twin.cloud.ministack.patches import LEDGER

GROUP = "/aws/cloudformation/stack-Log1"


@pytest.fixture(autouse=True)
def _patched() -> Iterator[None]:
    take_back = LEDGER.apply(functions.__name__)
    yield
    take_back()
    cloudwatch_logs._log_groups.clear()


def log(group: str | None) -> None:
    config: dict[str, Any] = {"FunctionName": "handler", "LoggingConfig": {"LogGroup": group} if group else {}}
    lambda_svc._emit_lambda_logs({"config": config}, "request", "a line", False, 5)


def test_a_group_that_is_gone_stays_gone() -> None:
    log(GROUP)

    assert GROUP not in cloudwatch_logs._log_groups


def test_a_group_that_is_there_gets_the_line() -> None:
    cloudwatch_logs._log_groups[GROUP] = {"arn": "arn", "creationTime": 0, "streams": {}}

    log(GROUP)

    assert len(cloudwatch_logs._log_groups[GROUP]["streams"]) == 1


def test_a_function_without_a_group_of_its_own_logs_as_before() -> None:
    log(None)

    assert "/aws/lambda/handler" in cloudwatch_logs._log_groups
