"""The CDK command line by `run_cdk`."""

import os
from pathlib import Path

import pytest

from tools.cdk_cli import run_cdk
from twin.state import TwinState

#: What the command line traces once it has made up its mind to report the run.
REPORTS = "Telemetry sink registered"


def environment_of_a_twin(home: Path) -> dict[str, str]:
    return TwinState(
        home=home,
        pid=0,
        started=0,
        gateway_port=1,
        mqtt_port=2,
        data_port=3,
        front_port=4,
        proxy_port=5,
        region="us-east-1",
        account="000000000000",
        secret="secret",
    ).environment()


@pytest.mark.parametrize("at_the_twin", [True, False])
def test_a_run_at_the_twin_is_reported_to_nobody(tmp_path: Path, at_the_twin: bool) -> None:
    environment = {**os.environ, "CDK_HOME": str(tmp_path / "home"), "TELEMETRY_ENDPOINT": "https://127.0.0.1:9/none"}
    environment |= environment_of_a_twin(tmp_path) if at_the_twin else {}

    run_cdk(
        ["context", "-vv"],
        environment=environment,
        log=tmp_path / "log",
        timeout_s=60,
        cwd=tmp_path,
    )

    assert (REPORTS in (tmp_path / "log").read_text()) is not at_the_twin
