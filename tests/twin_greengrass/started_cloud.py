"""A real twin for the conformance tests: own ports, own state folder, ended with the tests."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from twin import lifecycle
from twin.cloud_process import CLOUD_LOG
from twin.state import TwinState

REGION, ACCOUNT = "us-east-1", "000000000000"


class Cloud:
    """The ports of a running twin, clients for it, and its log."""

    def __init__(self, state: TwinState) -> None:
        self.state = state
        self.mqtt_port, self.data_port = state.mqtt_port, state.data_port
        self.front_port, self.proxy_port = state.front_port, state.proxy_port

    def client(self, service: str, **more: Any) -> Any:
        config = Config(retries={"max_attempts": 1}, connect_timeout=30, read_timeout=30)
        return boto3.client(service, config=config, **{**self.state.client_arguments(), **more})

    def authority(self) -> str:
        url = f"{self.state.gateway_url}/_ministack/iot/ca.pem"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def open_policy(self) -> str:
        """An IoT policy that allows everything, for devices of tests that are not about policies."""
        iot, name = self.client("iot"), "everything"
        statement = {"Effect": "Allow", "Action": ["iot:*", "greengrass:*"], "Resource": "*"}
        with suppress(iot.exceptions.ResourceAlreadyExistsException):
            document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iot.create_policy(policyName=name, policyDocument=document)
        return name

    def log(self) -> str:
        return (self.state.home / CLOUD_LOG).read_text()


@contextmanager
def started_cloud(home: Path, *, auth: bool | None = None) -> Iterator[Cloud]:
    """A cloud of the block's own; policies are evaluated if `auth` says so, by default if TWIN_AUTH is 1."""
    try:
        yield Cloud(lifecycle.start(home, auth=auth))
    finally:
        lifecycle.stop(home)
