"""The tool that runs commands in fresh clones, on a repository of two files."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import fresh_clone
from tools.fresh_clone import ROOT, CircumstanceError, Circumstances, Outcome, left_running, run, table

PRINTENV = 'printf "%s\\n" "$PWD" "${HOME-unset}" "${MY_SETTING-unset}"; umask; od -c text | head -1; ls -l text'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "text").write_text("one\ntwo\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "text"], ["commit", "--quiet", "--no-verify", "-m", "first"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the clones are made."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def test_the_commands_meet_the_circumstances_and_nothing_of_the_callers_settings(
    repository: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SETTING", "1")
    circumstances = Circumstances("ä b/c", umask=0o077, home="unset", autocrlf=True, clones=2)

    code = run(circumstances, [PRINTENV, "exit 0"], limit_s=60, logs=tmp_path / "logs", repository=repository)

    assert code == 0
    assert [line.split()[-2] for line in capsys.readouterr().out.splitlines()[1:]] == ["0"] * 6
    for number in (1, 2):
        (log,) = (tmp_path / "logs").glob(f"*-{number}.log")
        folder, home, setting, umask, bytes_, listed = log.read_text().split("\n")[4:10]
        assert folder.endswith(f"/{number}/ä b/c")
        assert (home, setting, umask) == ("unset", "unset", "0077")
        assert bytes_.split()[1:6] == ["o", "n", "e", "\\r", "\\n"]
        assert listed.startswith("-rw-------")
    assert list(place.iterdir()) == []


def test_a_command_that_fails_ends_its_clone_with_the_end_of_its_output(
    repository: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = "mkdir -p out/demo/twin && echo why > out/demo/twin/cloud.log && echo key > out/demo/private.key"
    commands = [f"{writes}; echo a reason; exit 3", "echo never"]

    assert run(Circumstances(), commands, limit_s=60, logs=tmp_path / "logs", repository=repository) == 1

    said = capsys.readouterr()
    (kept,) = [path for path in (tmp_path / "logs").rglob("*") if path.is_file() and path.parent != tmp_path / "logs"]
    assert kept.read_text() == "why\n"
    assert str(kept.parents[2]) in said.err
    assert "ended with 3" in said.err
    assert "\na reason\n" in said.err
    assert "never" not in said.out
    assert list(place.iterdir()) == []


def test_a_command_that_does_not_end_is_ended(repository: Path, place: Path, tmp_path: Path) -> None:
    assert run(Circumstances(), ["sleep 600"], limit_s=0.5, logs=tmp_path / "logs", repository=repository) == 1

    assert list(place.iterdir()) == []


def test_a_process_that_is_left_is_named_and_ended(
    repository: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "setsid sleep 600 >/dev/null 2>&1 & echo $! >&2"

    assert run(Circumstances(), [command], limit_s=60, logs=tmp_path / "logs", repository=repository) == 1

    (left,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left running")]
    assert "sleep 600" in left  # the shell's line, too, until it has become that program
    assert left_running(place) == []


def test_what_lies_in_a_folder_without_rights_is_removed(repository: Path, place: Path, tmp_path: Path) -> None:
    command = "mkdir closed && touch closed/file && chmod 500 closed"

    assert run(Circumstances(), [command], limit_s=60, logs=tmp_path / "logs", repository=repository) == 0

    assert list(place.iterdir()) == []


def test_a_second_interrupt_does_not_end_the_clean_up(
    repository: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_clone, "end_processes", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    try:
        code = run(Circumstances(), ["true"], limit_s=60, logs=tmp_path / "logs", repository=repository)
    except KeyboardInterrupt:  # which would end pytest
        code = 130
    finally:
        signal.signal(signal.SIGINT, before)

    assert code == 0
    assert list(place.iterdir()) == []


def test_only_the_way_to_indexes_and_programs_is_kept(tmp_path: Path) -> None:
    kept = {
        "https_proxy": "http://proxy.example:3128",
        "NO_PROXY": "localhost",
        "PIP_INDEX_URL": "https://index.example/simple",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/cert.pem",
        "REQUESTS_CA_BUNDLE": "/etc/ssl/cert.pem",
        "NODE_EXTRA_CA_CERTS": "/etc/ssl/cert.pem",
        "npm_config_registry": "https://index.example/npm",
        "LD_LIBRARY_PATH": "/opt/python/lib",
    }
    dropped = {
        "AWS_PROFILE": "p",
        "GIT_DIR": "/g",
        "PYTHONPATH": "/p",
        "UV_CACHE_DIR": "/c",
        "LC_ALL": "C",
        "HOME": "/h",
    }
    path = os.pathsep.join([str(ROOT / ".venv" / "bin"), "/usr/bin"])

    made = Circumstances(home="empty", python="/opt/python").environment({**kept, **dropped, "PATH": path}, tmp_path)

    expected = {"PATH": "/usr/bin", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    assert made == {**kept, **expected, "PYTHON": "/opt/python"}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"folder_name": "../x"}, "--folder-name must be a relative path without .., got '../x'"),
        ({"folder_name": ""}, "--folder-name must be"),
        ({"clones": 0}, "--clones must be at least 1, got 0"),
    ],
)
def test_refuses_circumstances_that_mean_nothing(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(CircumstanceError, match=text):
        Circumstances(**wrong)


def test_refuses_what_only_root_or_nobody_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CircumstanceError, match="--user nobody must be started by root"):
        Circumstances(user="nobody")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(CircumstanceError, match="--user must be a user of this machine, got 'no one'"):
        Circumstances(user="no one", home="read-only")
    with pytest.raises(CircumstanceError, match="root writes everywhere"):
        Circumstances(home="read-only")


def test_the_table_has_a_line_for_each_command() -> None:
    circumstances = Circumstances("a b", umask=0o22, autocrlf=True)

    lines = table(circumstances, [Outcome(1, "make demo", 0, 12.34), Outcome(2, "make test", -1, 3600)]).splitlines()

    assert lines[0].split() == ["circumstances", "clone", "command", "exit", "seconds"]
    assert lines[1].startswith("folder 'a b', user ")
    assert "umask 022, autocrlf" in lines[1]
    assert [line.split()[-5:] for line in lines[1:]] == [
        ["1", "make", "demo", "0", "12.3"],
        ["2", "make", "test", "-1", "3600.0"],
    ]
