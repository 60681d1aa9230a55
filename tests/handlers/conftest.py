"""Services in memory in place of AWS: no test of a handler opens a connection."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import boto3
import pytest

from edge_handlers import service_client
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_kms import FakeKms
from tests.handlers.fake_rollout import TARGET, FakeRollout
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.fake_sagemaker import FakeSageMaker


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the code under test would have slept; threads that other tests left go on sleeping."""
    slept: list[float] = []
    ours, sleep = threading.get_ident(), time.sleep
    # A handler's own worker threads pause here.
    monkeypatch.setattr(
        "edge_handlers.service_client.time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    )
    monkeypatch.setattr(time, "sleep", lambda s: slept.append(s) if threading.get_ident() == ours else sleep(s))
    return slept


@pytest.fixture
def s3(serve: Callable[..., None]) -> FakeS3:
    fake = FakeS3()
    serve(s3=fake)
    return fake


@pytest.fixture
def kms(serve: Callable[..., None]) -> FakeKms:
    fake = FakeKms()
    serve(kms=fake)
    return fake


@pytest.fixture
def sagemaker(serve: Callable[..., None]) -> FakeSageMaker:
    fake = FakeSageMaker()
    serve(sagemaker=fake)
    return fake


@pytest.fixture
def iot(serve: Callable[..., None]) -> FakeIot:
    fake = FakeIot()
    serve(iot=fake)
    return fake


@pytest.fixture
def greengrass(serve: Callable[..., None]) -> FakeGreengrass:
    fake = FakeGreengrass()
    serve(greengrassv2=fake)
    return fake


@pytest.fixture
def rollout(serve: Callable[..., None]) -> FakeRollout:
    """A rollout of the deployment `new`."""
    fake = FakeRollout()
    serve(greengrassv2=fake, iot=fake)
    fake.deploy("new", TARGET)
    return fake


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Make the handlers' clients fakes: `serve(s3=fake)`."""
    # A client alone calls nobody: what a test does not use may be asked for.
    services: dict[str, object] = {"kms": FakeKms()}
    monkeypatch.setattr(boto3, "client", lambda service, **_: services[service])

    def use(**fakes: object) -> None:
        services.update(fakes)
        forget()

    def forget() -> None:
        service_client.client.cache_clear()
        service_client.quick_client.cache_clear()

    forget()
    yield use
    forget()
