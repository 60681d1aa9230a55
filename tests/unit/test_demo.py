"""What keeps two demos apart."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from tools import demo, demo_site
from tools.demo import alone
from tools.predictions import PredictionError
from twin.errors import TwinError


def test_one_demo_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with pytest.raises(typer.BadParameter, match="one demo at a time"), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):
            pass

    with alone(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(typer.BadParameter, match=r"must be writable, got .*file/run"), alone(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("ignored", [True, False])
def test_a_demo_under_nohup_outlives_its_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ignored: bool
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    seen: list[object] = []

    def run(_out: Path) -> None:
        seen.append(signal.getsignal(signal.SIGHUP))
        raise TwinError("enough")

    monkeypatch.setattr(demo, "run", run)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        assert demo._demonstrate(tmp_path, tmp_path / "demo.json") == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    assert (seen == [signal.SIG_IGN]) is ignored


def test_a_client_device_that_takes_too_long_is_an_error_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(command: list[str], **_arguments: Any) -> Any:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(demo_site.subprocess, "run", too_long)  # type: ignore[attr-defined]

    with pytest.raises(PredictionError, match=r"camera: \w+\.py predict: must end within \d+ s, it did not"):
        demo_site._run_client(tmp_path / "camera", "predict")
