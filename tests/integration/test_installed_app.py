"""An app of one's own: the wheel in an empty environment, a new app, its checks, a twin, and away again."""

import shlex
import time
import warnings
from pathlib import Path

import pytest

from config.names import Names
from tests.docs.test_documented_walk import snippets
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
    install, init, change, *rest = snippets("docs/packages.md")[1]
    assert install.startswith("pip install")  # the environment has it
    assert change == "cd my-app"
    said = {}

    installed.run(*shlex.split(init), cwd=tmp_path)
    with_set_up(app)
    try:
        for line in rest:
            if line == "edgewright twin down":
                left = installed.run("edgewright", "twin", "inventory", cwd=app)
            said[line] = installed.run(*shlex.split(line), cwd=app)
    finally:
        installed.end("edgewright", "twin", "down", cwd=app)

    assert "2 passed" in said["python -m pytest"]
    deployed = f"deployed twin to the twin in {app / '.twin'}; next: edgewright predict"
    assert deployed in said["edgewright deploy"]
    assert f"{Names('twin').edge_server} says (iris " in said["edgewright predict iris --index 0"]
    assert "destroyed twin; next: edgewright twin inventory" in said["edgewright destroy"]
    assert left.startswith("Nothing is left.")
    assert said["edgewright twin down"] == "The twin is stopped.\n"
    # What is installed is only read.
    assert {path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts} == packages
    print(f"from the wheel to nothing left: {time.monotonic() - began:.0f} s")  # noqa: T201
