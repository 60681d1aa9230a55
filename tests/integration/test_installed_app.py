"""An app of one's own: the wheel in an empty environment, a new app, its checks, a twin, and away again."""

import time
import warnings
from pathlib import Path

import pytest

from config.names import Names
from tests.installed import Installed, apart, beside, with_set_up

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    made = apart(folder)
    if isinstance(made, Installed):
        return made
    warnings.warn(f"not an empty environment, but this one's packages: {made}", stacklevel=1)
    return beside(tmp_path_factory.mktemp("beside"))


def test_from_the_wheel_to_an_answer_of_a_device_and_back_to_nothing(installed: Installed, tmp_path: Path) -> None:
    began = time.monotonic()
    app = tmp_path / "my-app"
    packages = {path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts}

    installed.run("edgewright", "init", "my-app", "--stage", "line-2", "--model", "digits", cwd=tmp_path)
    with_set_up(app)
    installed.run("edgewright", "setup", cwd=app)
    checked = installed.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=app)
    try:
        deployed = installed.run("edgewright", "deploy", cwd=app)
        answer = installed.run("edgewright", "predict", "digits", "--index", "7", cwd=app)
        status = installed.run("edgewright", "twin", "status", cwd=app)
        destroyed = installed.run("edgewright", "destroy", cwd=app)
        left = installed.run("edgewright", "twin", "inventory", cwd=app)
    finally:
        stopped = installed.run("edgewright", "twin", "down", cwd=app)

    assert "2 passed" in checked
    assert f"deployed twin to the twin in {app / '.twin'}; next: edgewright predict" in deployed
    assert f"{Names('twin').edge_server} says (digits " in answer
    assert "running" in status
    assert "destroyed twin; next: edgewright twin inventory" in destroyed
    assert left.startswith("Nothing is left.")
    assert stopped == "The twin is stopped.\n"
    # What is installed is only read.
    assert {path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts} == packages
    print(f"from the wheel to nothing left: {time.monotonic() - began:.0f} s")  # noqa: T201
