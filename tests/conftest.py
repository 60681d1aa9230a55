"""Guards that must act before anything is collected."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from twin.state import keep_to_this_machine

# ONNX Runtime reports usage to its vendor unless it is told not to; no test needs a network.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# What a user has set for other programs is no part of a test, and no test reads the user's AWS files. A git hook says
# where its repository is, to every git below it.
OF_PYTHON = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
for name in set(os.environ) - OF_PYTHON:
    if name.startswith(("AWS_", "CDK_", "EDGEWRIGHT_", "GIT_", "JSII_", "PYTHON", "TWIN_")) and name != "TWIN_AUTH":
        del os.environ[name]
keep_to_this_machine(os.environ)
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

ROOT = Path(__file__).resolve().parents[1]

for shadow in (ROOT / "constructs" / "__init__.py", ROOT / "tests" / "constructs" / "__init__.py"):
    if shadow.exists():
        # As a test this would run too late: the shadow breaks the collection itself.
        raise pytest.UsageError(f"{shadow.relative_to(ROOT)} shadows the PyPI package constructs: remove it")

# A busy machine makes examples slowly; that is no mistake of the code under test.
settings.register_profile("edgewright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edgewright")
