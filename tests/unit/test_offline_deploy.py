"""The CDK command line by `run_cdk`, and a synth: what is told of them, and what outlives them."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tools.offline_deploy import CdkError, DeploymentError, OfflineDeploy, run_cdk
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


def test_a_command_whose_cloud_cannot_be_asked_about_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdk.js").write_text("setInterval(() => {}, 1000)\n")
    monkeypatch.setattr("tools.offline_deploy._COMMAND", tmp_path / "cdk.js")

    def damaged() -> str:
        raise ValueError("state.json is damaged")

    with pytest.raises(CdkError, match=r"cdk deploy cannot be told .* \(state\.json is damaged\) and was ended"):
        run_cdk(
            ["deploy"],
            environment=dict(os.environ),
            log=tmp_path / "log",
            timeout_s=60,
            trouble=damaged,
            cwd=tmp_path,
        )


def test_a_deploy_ends_once_its_twin_lacks_something_and_a_destroy_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cdk.js").write_text("setTimeout(() => {}, process.argv.includes('destroy') ? 3000 : 600000)\n")
    monkeypatch.setattr("tools.offline_deploy._COMMAND", tmp_path / "cdk.js")
    app = OfflineDeploy({}, tmp_path, tmp_path, twin_lacks=lambda: "needs room in twin: full")

    with pytest.raises(CdkError, match=r"cdk deploy needs room in twin: full and was ended"):
        app.deploy()
    app.destroy()


def test_a_command_that_has_ended_by_itself_has_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdk.js").write_text("")
    monkeypatch.setattr("tools.offline_deploy._COMMAND", tmp_path / "cdk.js")
    asked = threading.Event()

    def told_late() -> str:
        asked.set()
        (tmp_path / "go").touch()
        time.sleep(3)
        return "needs room"

    (tmp_path / "cdk.js").write_text(
        f"const wait = setInterval(() => {{ if (require('fs').existsSync({json.dumps(str(tmp_path / 'go'))})) "
        "clearInterval(wait) }, 50)\n"
    )
    run_cdk(
        ["deploy"],
        environment=dict(os.environ),
        log=tmp_path / "log",
        timeout_s=60,
        trouble=told_late,
        cwd=tmp_path,
    )
    assert asked.is_set()


def test_what_a_synth_has_started_does_not_outlive_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('pid.new').write_text(str(child.pid))\n"
        "pathlib.Path('pid.new').rename('pid')\n"
        "time.sleep(600)\n"
    )
    note = tmp_path / "pid"

    def too_long(process: subprocess.Popen[str], **_named: Any) -> None:
        deadline = time.monotonic() + 60
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise subprocess.TimeoutExpired(process.args, 180)

    monkeypatch.setattr("subprocess.Popen.communicate", too_long)
    deploy = OfflineDeploy(environment={}, out=tmp_path / "out", app=tmp_path)
    with pytest.raises(DeploymentError, match="must end within 180 s"):
        deploy.synth()

    child = int(note.read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
