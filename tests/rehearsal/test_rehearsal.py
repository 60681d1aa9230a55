"""`python -m tools.rehearse`: a change that only some devices cannot take is found before it reaches anybody."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.rehearsal.rehearsed_assembly import NAME, RUN, device, write_assembly, write_fleet
from tools import rehearse
from tools.cloud_assembly import ROOT
from tools.fleet_export import read_fleet
from twin.process import processes_where

LIMIT_S = 120.0
JOB: dict[str, Any] = {
    "JobExecutionsRolloutConfig": {"MaximumPerMinute": 100},
    "AbortConfig": {
        "CriteriaList": [
            {"FailureType": "FAILED", "Action": "CANCEL", "ThresholdPercentage": 90, "MinNumberOfExecutedThings": 50}
        ]
    },
}
PROFILE = """
[[components]]
component = "plant.Camera"
install_s = [20, 40]
start_s = 10
"""
LITE = [f"line-{number:02}" for number in range(6)]
DEVICES = [
    *(device(f"test-{number}", "canary", "classic") for number in range(3)),
    *(device(name, "early", "lite") for name in LITE),
    *(device(f"press-{number}", "early", "classic") for number in range(6)),
    *(device(f"oven-{number}", "all", "classic") for number in range(3)),
    device("cellar", "all", "lite", seen="2026-10-01T00:00:00Z"),
    device("new", "all"),
]


def start(folder: Path, name: str, *more: str) -> subprocess.Popen[str]:
    """Begin a rehearsal of `folder`'s two assemblies, in a process of its own."""
    command = [sys.executable, "-m", "tools.rehearse", "--fleet", str(folder / "fleet.json"), "--speed", "240"]
    command += ["--before", str(folder / "before"), "--after", str(folder / "after"), "--seed", "4"]
    command += ["--json", str(folder / f"{name}.json"), "--markdown", str(folder / f"{name}.md"), *more]
    environment = {**os.environ, "TMPDIR": str(folder)}
    # Tests that run in the background of a shell hand down that SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and a change with a step that nucleus lite never runs: the device refuses it there."""
    folder = tmp_path_factory.mktemp("rehearsal")
    write_assembly(folder / "before", "1.0.0", RUN, **JOB)
    write_assembly(folder / "after", "1.1.0", {**RUN, "install": "./prepare", "shutdown": "./park"}, **JOB)
    write_fleet(folder / "fleet.json", DEVICES)
    (folder / "profile.toml").write_text(PROFILE)
    return folder


def test_a_change_that_breaks_lite_devices_only_is_named_with_ring_and_devices_the_same_twice(folder: Path) -> None:
    runs = {name: start(folder, name, "--profile", str(folder / "profile.toml")) for name in ("first", "second")}
    told = {name: run.communicate(timeout=LIMIT_S) for name, run in runs.items()}

    assert {run.returncode for run in runs.values()} == {1}, told
    found: dict[str, Any] = json.loads((folder / "first.json").read_text())
    assert (folder / "second.json").read_text() == (folder / "first.json").read_text()
    assert (folder / "second.md").read_text() == (folder / "first.md").read_text()
    canary, early, rest = found["rings"]
    assert found["headline"].startswith(
        "the rollout would stop at ring early, which stops at the gate: 6 of 12 devices"
    )
    assert (canary["verdict"], canary["succeeded"], canary["restarts"], canary["behind"]) == ("goes through", 3, 3, [])
    assert 0.5 <= canary["gate_minutes"] <= canary["minutes"] <= 1
    # Each is down for its install step and its start, 30 to 50 s, and asked six times a minute.
    assert 9 <= canary["requests_lost"] <= 15
    assert [each["thing"] for each in early["behind"]] == LITE
    assert {each["nucleus"] for each in early["behind"]} == {"lite"}
    (reason,) = {each["reason"] for each in early["behind"]}
    assert reason.startswith(f"FAILED: component {NAME} 1.1.0 does not work on nucleus lite: the step shutdown")
    assert early["abort"].startswith("6 of 12 FAILED (50.0 %)")
    assert (early["restarts"], early["notified"]) == (6, 12)
    assert (rest["verdict"], rest["notified"], len(rest["behind"])) == ("is not reached", 0, 5)
    jobs = next(cost for cost in found["costs"] if cost["item"] == "IoT jobs")
    assert jobs["usd"] == pytest.approx(15 * 0.003)
    assert found["nuclei"] == {"classic": 12, "lite": 7, "unknown": 1}
    assert "camera.bin" in found["notes"][-1]
    text, progress = told["first"]
    assert "6 behind: FAILED: component plant.Camera" in text
    assert "rehearse: starting a twin" in progress
    assert "> [!CAUTION]" in (folder / "first.md").read_text()
    assert not list(folder.glob("edgewright-rehearsal-*"))


def test_devices_that_are_away_are_named_and_not_waited_for_as_long_as_enough_of_the_ring_are_there(
    tmp_path: Path,
) -> None:
    write_assembly(tmp_path / "before", "1.0.0", RUN, away_s=300, **JOB)
    write_assembly(tmp_path / "after", "1.1.0", RUN, away_s=300, **JOB)
    long_ago = "2026-10-01T00:00:00Z"
    there = [device(f"test-{number}", "canary", "classic") for number in range(2)] + [device("line-0", "early", "lite")]
    off = [device("test-off", "canary", "lite", long_ago)]
    off += [device(f"line-off-{number}", "early", "classic", long_ago) for number in range(2)]
    write_fleet(tmp_path / "fleet.json", [*there, *off])

    run = start(tmp_path, "found")
    told = run.communicate(timeout=LIMIT_S)

    assert run.returncode == 1, told
    canary, early, _ = json.loads((tmp_path / "found.json").read_text())["rings"]
    assert (canary["verdict"], canary["gate_minutes"]) == ("goes through", 5)
    assert canary["gate"] == (
        "2 of 3 devices are healthy, 2 are needed; 0 failed; 1 away and not waited for: test-off (lite)"
    )
    assert early["verdict"] == "stops at the gate"
    assert early["gate"] == (
        "1 of 3 devices are healthy, 1 are needed; 0 failed; 2 away and not waited for: line-off-0 (classic), "
        "line-off-1 (classic); at least 50 % of 3 must be there; it waits 45 minutes"
    )


@pytest.mark.parametrize(("days", "away"), [(7.0, {"cellar"}), (90.0, set()), (1e6, set())])
def test_who_was_not_seen_for_long_is_away_however_many_days_that_is(
    days: float, away: set[str], tmp_path: Path
) -> None:
    fleet = read_fleet(write_fleet(tmp_path / "fleet.json", DEVICES))

    assert rehearse._away(fleet, days) == away


def test_an_interrupt_leaves_nothing(folder: Path) -> None:
    run = start(folder, "interrupted")
    deadline = time.monotonic() + LIMIT_S
    while not (homes := list(folder.glob("edgewright-rehearsal-*/twin/state.json"))):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.05)
    home = str(homes[0].parent)

    run.send_signal(signal.SIGINT)
    _, progress = run.communicate(timeout=LIMIT_S)

    assert run.returncode == 130
    assert "interrupted, nothing is left" in progress
    assert not list(folder.glob("edgewright-rehearsal-*"))
    assert not processes_where(lambda environment: home in environment.values())


def test_a_change_that_brings_the_devices_nothing_needs_no_twin(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--fleet", str(folder / "fleet.json"), "--json", str(tmp_path / "found.json")]

    assert rehearse.main([*arguments, "--before", str(folder / "before"), "--after", str(folder / "before")]) == 0

    told = capsys.readouterr()
    assert told.out.startswith("plant: a deploy brings the devices nothing new\n")
    assert "starting a twin" not in told.err
    rings = json.loads((tmp_path / "found.json").read_text())["rings"]
    assert [(ring["ring"], ring["verdict"], ring["devices"]) for ring in rings] == [
        ("canary", "does not change", 3),
        ("early", "does not change", 12),
        ("all", "does not change", 5),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--base", "main", "--speed", "0"], "speed must be from 1 to 3600, got 0"),
        (["--base", "no such ref"], "--base must be a commit, branch or tag"),
        ([], "give --base REF, or both --before and --after"),
        (["--base", "main", "--requests", "-1"], "--requests must be from 0 to 1000000, got -1"),
        (
            ["--base", "main", "--json", "missing/x.json"],
            "--json must be a file in a folder that exists and is writable, got missing",
        ),
        (["--base", "main", "--markdown", "."], "--markdown must be a file in a folder that exists"),
        (["--base", "main", "--profile", "none.toml"], "--profile must be a TOML file"),
    ],
)
def test_wrong_use_is_refused(
    folder: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rehearse.main(["--fleet", str(folder / "fleet.json"), "--stage", "dev", *arguments]) == 2

    assert told in capsys.readouterr().err


def test_what_a_killed_rehearsal_left_is_taken_away_and_one_that_runs_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, running, beginning = (tmp_path / f"edgewright-rehearsal-{name}" for name in ("1", "2", "3"))
    for folder in (killed, running, beginning):
        (folder / "twin" / "state").mkdir(parents=True)
    (killed / "owner").touch()
    elsewhere, lure = tmp_path / "another's", tmp_path / "edgewright-rehearsal-4"
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    lure.symlink_to(elsewhere)

    with (running / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        rehearse._take_away_left()

    assert sorted(tmp_path.iterdir()) == [elsewhere, running, beginning, lure]
    assert f"{killed} is left of a rehearsal that was killed" in capsys.readouterr().err


def test_a_rehearsal_that_nohup_has_started_outlives_its_terminal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, Any] = {}

    def rehearsed(_options: Any) -> None:
        seen.update((number, signal.getsignal(number)) for number in (signal.SIGHUP, signal.SIGTERM))
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearse, "_rehearse", rehearsed)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert rehearse.main(["--fleet", str(folder / "fleet.json")]) == 130
    finally:
        signal.signal(signal.SIGHUP, before)

    assert seen == {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: signal.default_int_handler}


def test_a_result_is_written_though_nobody_reads_what_is_told(folder: Path, tmp_path: Path) -> None:
    found, versions = tmp_path / "found.json", ["--before", str(folder / "before"), "--after", str(folder / "before")]
    command = [sys.executable, "-u", "-m", "tools.rehearse", "--fleet", str(folder / "fleet.json"), *versions]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [*command, "--json", str(found)], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)

    assert "Traceback" not in run.stderr
    assert json.loads(found.read_text())["goes_through"] is True


def test_a_result_that_cannot_be_written_is_still_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    versions = ["--before", str(folder / "before"), "--after", str(folder / "before")]

    code = rehearse.main(["--fleet", str(folder / "fleet.json"), *versions, "--json", str(tmp_path / "found.json")])

    told = capsys.readouterr()
    assert code == 2
    assert told.out.startswith("plant: a deploy brings the devices nothing new")
    assert "the result must be writable, got [Errno 28] No space left on device: it is the one above" in told.err
