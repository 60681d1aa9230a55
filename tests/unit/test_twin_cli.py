"""What the twin's command line shows, without a twin."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from twin import cli
from twin.errors import TwinError
from twin.state import TwinState
from twin.status import EdgeServerStatus, TwinStatus

NAME = "edgewright-a-long-stage-edge-server"


def test_a_things_name_is_whole_in_a_narrow_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = TwinState(tmp_path, 1, 0.0, 2, 3, 4, 5, 6, "us-east-1", "000000000000", "s")
    server = EdgeServerStatus("i-84ad7cb128a3454e3", NAME, "running", 7, "core device started", 0.0)

    cli._show_status(TwinStatus(state, [server], [], None, {}))

    line = f"  edge server: {NAME} running (i-84ad7cb128a3454e3, pid 7): core device started\n"
    assert line in capsys.readouterr().out


def test_logs_of_no_twin_say_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))

    told = CliRunner().invoke(cli.application, ["logs"]).exception

    assert isinstance(told, TwinError)
    assert str(told) == f"a twin must have run in {tmp_path}, got none: start it with `python -m twin up`"
