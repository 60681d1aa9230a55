"""Asks a model of a stage's devices over AWS IoT, or listens to them, with the credentials of this shell.

python -m tools.predict digits --stage dev --index 7
python -m tools.predict --stage dev --watch

It needs `make setup-dev` (awsiotsdk), and the rights iot:DescribeEndpoint, Connect, Publish, Subscribe and Receive.
On the twin: `python -m twin predict`.
"""

from __future__ import annotations

import queue
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from typing import Any

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config.stage import Stage
from tools.set_up import require
from twin import TwinError
from twin import predict as asking

_STEP_S = 15.0
_BOUNDED = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})


class AwsLink:
    """A client of AWS IoT, as `twin.predict` needs it.

    Args:
        connection: Of awscrt, connected.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish, QoS 1.

        Raises:
            TwinError: The broker did not confirm within 15 s.
        """
        from awscrt.mqtt import QoS

        future, _number = self._connection.publish(topic, payload, QoS.AT_LEAST_ONCE)
        _wait(future, f"a message on {topic} must be taken", "check iot:Publish")

    @contextmanager
    def listen(self, topic: str) -> Iterator[queue.SimpleQueue[bytes]]:
        """Receive everything on an exact topic while in the block.

        Raises:
            TwinError: The broker did not confirm the subscription within 15 s.
        """
        from awscrt.mqtt import QoS

        heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def received(topic: str, payload: bytes, **_more: Any) -> None:
            del topic
            heard.put(payload)

        future, _number = self._connection.subscribe(topic, QoS.AT_LEAST_ONCE, received)
        _wait(future, f"a subscription to {topic} must be taken", "check iot:Subscribe and iot:Receive")
        try:
            yield heard
        finally:
            self._connection.unsubscribe(topic)


def _wait(future: Any, what: str, fix: str) -> Any:
    try:
        return future.result(_STEP_S)
    except FutureTimeoutError as exc:
        raise TwinError(f"{what} within {_STEP_S:.0f} s, it was not: {fix}") from exc
    except Exception as exc:  # awscrt raises AwsCrtError and, where the broker refuses, bare exceptions
        raise TwinError(f"{what}, got {exc}: {fix}") from exc


@contextmanager
def connected(session: boto3.Session, region: str, **settings: Any) -> Iterator[AwsLink]:
    """Connect to the account's AWS IoT by WebSocket, signed with the session's credentials.

    Args:
        session: Whose credentials: keys, a profile, single sign-on or a role.
        region: The stage's.
        settings: More for awsiotsdk's builder, such as `endpoint`, which is asked for by default.

    Raises:
        TwinError: There are no credentials, or no connection within 15 s.
    """
    from awscrt.auth import AwsCredentialsProvider
    from awsiot import mqtt5_client_builder

    try:
        credentials = session.get_credentials()
        if credentials is None:
            raise TwinError("credentials must be in this shell, got none: set AWS_PROFILE, or run aws sso login")
        frozen = credentials.get_frozen_credentials()
        if "endpoint" not in settings:
            iot = session.client("iot", region_name=region, config=_BOUNDED)
            settings["endpoint"] = iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    except (ClientError, BotoCoreError) as exc:
        raise TwinError(f"the account's IoT endpoint in {region} must be known, got: {exc}") from exc
    provider = AwsCredentialsProvider.new_static(frozen.access_key, frozen.secret_key, frozen.token)
    client = mqtt5_client_builder.websockets_with_default_aws_signing(
        region=region,
        credentials_provider=provider,
        client_id=f"edgewright-operator-{secrets.token_hex(4)}",
        **settings,
    )
    connection = client.new_connection()
    what = f"AWS IoT at {settings['endpoint']} must be reached"
    try:
        _wait(connection.connect(), what, "check iot:Connect, the proxy and the clock")
        yield AwsLink(connection)
    finally:
        with suppress(Exception):
            connection.disconnect().result(_STEP_S)


def clients_of(session: boto3.Session, stage: Stage) -> asking.Clients:
    """Make a maker of clients in the stage's region."""
    return lambda service: session.client(service, region_name=stage.region, config=_BOUNDED)


@contextmanager
def errors_told(program: str) -> Iterator[None]:
    """Tell an error that a user can act on as one message, and end with exit code 1."""
    try:
        yield
    except (TwinError, BotoCoreError) as exc:
        print(f"{program}: {exc}", file=sys.stderr)
        raise typer.Exit(1) from exc


def _in_aws(stage: Stage) -> tuple[asking.Connect, asking.Clients]:
    require("python -m tools.predict", "dev", "awsiot", "awscrt")
    session = boto3.Session()
    return lambda: connected(session, stage.region), clients_of(session, stage)


_ABOUT = "Ask a model of a stage's devices over AWS IoT, or listen to them, with the credentials of this shell."
main = errors_told("predict")(asking.command("dev", _in_aws, _ABOUT))


if __name__ == "__main__":
    typer.run(main)
