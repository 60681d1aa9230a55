"""Guards that must act before anything is collected."""

import functools
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.longest_first import LongestFirst
from tools.node import settle_jsii
from twin.state import keep_to_this_machine

# ONNX Runtime reports usage to its vendor unless it is told not to; no test needs a network.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Workers take turns on the cores already: the threads of numpy's small products would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What a user has set for other programs is no part of a test, and no test reads the user's AWS files. A git hook says
# where its repository is, to every git below it. Without bytecode each of the many processes compiles what it imports.
OF_PYTHON = {"PYTHONPATH", "PYTHONHOME", "PYTHONPYCACHEPREFIX"}
sys.dont_write_bytecode = False
# A worker's environment is the session's, which is clean already.
for name in set() if "PYTEST_XDIST_WORKER" in os.environ else set(os.environ) - OF_PYTHON:
    if name.startswith(("AWS_", "CDK_", "EDGEWRIGHT_", "GIT_", "JSII_", "PYTHON", "TWIN_")) and name != "TWIN_AUTH":
        del os.environ[name]
keep_to_this_machine(os.environ)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
# jsii reads it when a test imports aws_cdk, and would unpack below a home folder that cannot be written.
settle_jsii(os.environ)

ROOT = Path(__file__).resolve().parents[1]

for shadow in (ROOT / "constructs" / "__init__.py", ROOT / "tests" / "constructs" / "__init__.py"):
    if shadow.exists():
        # As a test this would run too late: the shadow breaks the collection itself.
        raise pytest.UsageError(f"{shadow.relative_to(ROOT)} shadows the PyPI package constructs: remove it")

# A busy machine makes examples slowly; that is no mistake of the code under test.
settings.register_profile("edgewright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgewright")


def pytest_configure(config: pytest.Config) -> None:
    """Order the files, and give the workers of a session one folder for what they share (tests/synthesis.py)."""
    config.pluginmanager.register(LongestFirst(config))
    if hasattr(config, "workerinput"):
        return
    # A time limit or a cancelled pipeline ends a session so: fixtures are to end the twins that they have started.
    signal.signal(signal.SIGTERM, _interrupt)
    folder = tempfile.mkdtemp(prefix="edgewright-tests-")
    os.environ["EDGEWRIGHT_TESTS_SHARED"] = folder  # workers inherit it
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def _interrupt(*_: object) -> None:
    # Not by SIGINT: what a shell starts in the background ignores that.
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def no_session_of_an_earlier_test() -> None:
    """Let boto3 forget the keys with which it was used first: they are of a twin that is gone."""
    if boto3 := sys.modules.get("boto3"):
        boto3.DEFAULT_SESSION = None  # type: ignore[attr-defined]
        _parse_service_models_once()


@functools.cache
def _parse_service_models_once() -> None:
    """Share them among sessions: parsing takes a tenth of a second a client, and each test has a session of its own."""
    from botocore.loaders import JSONFileLoader

    parse = JSONFileLoader.load_file

    @functools.cache
    def parsed(path: str) -> Any:
        return parse(JSONFileLoader(), path)

    JSONFileLoader.load_file = lambda _loader, path: parsed(path)
