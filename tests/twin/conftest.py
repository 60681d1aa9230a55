"""A twin for the session, and stacks on it."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from twin import lifecycle
from twin.state import TwinState

ROOT = Path(__file__).resolve().parents[2]
Clients = Callable[[str], Any]


def wait_until(condition: Callable[[], Any], limit_s: float = 30.0) -> Any:
    """Poll until the condition holds and return its value; fail after the limit."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {condition}"
        time.sleep(0.05)
    return value


def saved(home: Path, service: str) -> str:
    """What is on disk of a service's state; nothing before it was saved for the first time."""
    path = home / "state" / f"{service}.json"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("twin")
    try:
        # With TWIN_AUTH=1 the same tests run with IAM policies evaluated.
        yield lifecycle.start(home)
    finally:
        lifecycle.stop(home)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A state folder for a twin of the test's own; whatever runs in it is ended."""
    folder = tmp_path / "home"
    try:
        yield folder
    finally:
        lifecycle.stop(folder, anyway=True)


@pytest.fixture(scope="session")
def client(twin: TwinState) -> Clients:
    made: dict[str, Any] = {}
    return lambda service: made.setdefault(service, boto3.client(service, **twin.client_arguments()))


def settle(cloudformation: Any, stack: str) -> dict[str, Any]:
    """Wait until the operation on a stack has ended and return the stack."""

    def settled() -> dict[str, Any] | None:
        (description,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        return None if description["StackStatus"].endswith("IN_PROGRESS") else dict(description)

    return dict(wait_until(settled))


@pytest.fixture
def deploy(client: Clients) -> Iterator[Callable[..., dict[str, Any]]]:
    """Create or update a stack from its resources; returns the settled stack. Stacks are deleted after the test."""
    cloudformation = client("cloudformation")
    stacks: dict[str, str] = {}

    def run(name: str, resources: dict[str, Any], outputs: dict[str, Any] | None = None) -> dict[str, Any]:
        template = {"Resources": resources, "Outputs": {k: {"Value": v} for k, v in (outputs or {}).items()}}
        body = {"StackName": name, "TemplateBody": json.dumps(template), "Capabilities": ["CAPABILITY_NAMED_IAM"]}
        if name in stacks:
            cloudformation.update_stack(**body)
        else:
            stacks[name] = cloudformation.create_stack(**body)["StackId"]
        return settle(cloudformation, stacks[name])

    yield run
    for identifier in stacks.values():
        cloudformation.delete_stack(StackName=identifier)
        assert settle(cloudformation, identifier)["StackStatus"] == "DELETE_COMPLETE"


def handlers_zip() -> bytes:
    """The code of all handlers, as a Lambda function takes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in (ROOT / "constructs" / "edge_handlers").rglob("*.py"):
            archive.write(file, file.relative_to(ROOT / "constructs"))
    return buffer.getvalue()


def outputs_of(stack: dict[str, Any]) -> dict[str, str]:
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def trust(*services: str) -> dict[str, Any]:
    """A trust policy for AWS services."""
    principal = {"Service": list(services)}
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}],
    }
