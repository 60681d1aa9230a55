"""Logs of functions: a log group that was deleted with its stack stays deleted.

A function's last line comes after the answer that lets CloudFormation go on, and so after the deletion of the group. On
AWS the line is lost, because the function's role may not make groups; MiniStack would make the group again.
"""

from __future__ import annotations

from typing import Any

from ministack.services import cloudwatch_logs, lambda_svc

from twin.cloud.registry import Settings


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Drop the lines for a group that a function names and that is not there."""
    emit = lambda_svc._emit_lambda_logs

    def emit_to_existing_group(func: dict[str, Any], *arguments: Any, **named: Any) -> None:
        group = ((func.get("config") or func).get("LoggingConfig") or {}).get("LogGroup")
        if group is None or group in cloudwatch_logs._log_groups:
            emit(func, *arguments, **named)

    lambda_svc._emit_lambda_logs = emit_to_existing_group
