"""What the twin's command line shows, without a twin."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from twin import TwinError, cli, lifecycle
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


def test_a_path_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "[red]line-1[/red]" / ":x:"
    monkeypatch.setenv("TWIN_HOME", str(home))

    assert CliRunner().invoke(cli.application, ["down"]).output == f"No twin ran in {home}.\n"


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (["lifecycle.lock", "state/iam.json", "home/x", "letter.txt"], "letter.txt"),
        (["lifecycle.lock", "state.json.old"], "state.json.old"),
        (["home/alice/letter.txt", "tmp/x", "state.json"], "home, state.json, tmp"),  # no twin was here
        ([f"{number}.txt" for number in range(8)], "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 3 more"),
    ],
)
def test_down_deletes_no_folder_with_what_no_twin_made(
    there: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name in there:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    monkeypatch.setenv("TWIN_HOME", str(home))

    told = CliRunner().invoke(cli.application, ["down", "--purge"]).exception

    assert isinstance(told, TwinError)
    assert f"got {home}, in which no twin made {named}: nothing was deleted" in str(told)
    assert sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()) == sorted(there)


def test_down_deletes_a_twins_folder_and_follows_no_link_out_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    outside.mkdir()
    (outside / "letter.txt").touch()
    for name in ("state", "instances/i-1", "log"):
        (home / name).mkdir(parents=True)
    for name in ("lifecycle.lock", "devices.lock", "state.json.77.new", "unsaved", "log/cloud.log"):
        (home / name).touch()
    (home / "tmp").symlink_to(outside)
    monkeypatch.setenv("TWIN_HOME", str(home))

    for _ in range(2):
        told = CliRunner().invoke(cli.application, ["down", "--purge"])

        assert (told.exit_code, told.output) == (0, f"No twin ran in {home}.\n")
        assert not home.exists()
    assert (outside / "letter.txt").exists()


def test_a_purge_that_was_killed_half_way_is_ended_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for name in ("home", "tmp", "s3", "state", "log"):
        (home / name).mkdir(parents=True)
    (home / "lifecycle.lock").touch()

    rmtree, last = shutil.rmtree, ["log"]

    def killed(path: Path) -> None:
        if path.name in last:
            raise KeyboardInterrupt
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", killed)
    for name in ("log", "state"):
        last[:] = [name]
        with pytest.raises(KeyboardInterrupt):
            lifecycle.purge(home)

    last.clear()
    lifecycle.purge(home)
    assert not home.exists()
