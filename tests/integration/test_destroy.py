"""What a destroy leaves behind after a deploy that was killed half way."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.test_offline_deploy import copy_app
from tools.offline_deploy import OfflineDeploy
from twin import inventory, lifecycle
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


class KilledError(Exception):
    """Stands for a terminal that is closed: the command line ends where it is."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the app."""
    return copy_app(tmp_path_factory.mktemp("destroy") / "app")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("state") / "twin"
    try:
        yield lifecycle.start(home)
    finally:
        lifecycle.stop(home)


@pytest.fixture(scope="module")
def first(app: Path, twin: TwinState, tmp_path_factory: pytest.TempPathFactory) -> OfflineDeploy:
    """The stage `twin`, synthesised, in a bootstrapped account."""
    deploy = OfflineDeploy(environment=twin.environment(), out=tmp_path_factory.mktemp("out"), app=app)
    deploy.synth()
    deploy.bootstrap()
    return deploy


def left(state: TwinState) -> list[str]:
    """Everything in the account but the bootstrap."""
    found = inventory.take(state)
    return [f"{kind} {name}" for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names]


def test_a_deploy_that_was_killed_half_way_is_taken_away(first: OfflineDeploy, twin: TwinState) -> None:
    def kill(line: str) -> None:
        if "edgewright-twin-model-digits" in line and "deploying" in line:
            raise KilledError

    with pytest.raises(KilledError):
        replace(first, on_line=kill).deploy()
    assert left(twin), "nothing was deployed before the kill: the test would prove nothing"

    first.destroy()

    assert left(twin) == []
