"""CloudFormation is told how the provisioning ended, so that a deploy fails with the reason."""

from pathlib import Path

import pytest

from tests.edge_server.system import JOINED, SIGNAL_URL, System

THING = "edgewright-dev-edge-server"


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_a_success_is_signalled_after_the_nucleus_runs(system: System) -> None:
    system.run()

    assert system.signal() == {
        "Status": "SUCCESS",
        "Reason": f"{THING} is a core device",
        "UniqueId": THING,
        "Data": "",
    }
    calls = system.calls()
    (sent,) = [index for index, call in enumerate(calls) if call.startswith("curl") and "PUT" in call]
    assert calls[sent].endswith(SIGNAL_URL)
    assert "--max-time 30" in calls[sent]
    assert sent > max(index for index, call in enumerate(calls) if call.startswith("systemctl is-active"))


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        ("dnf", "could not install packages;"),
        ("curl --fail --silent --show-error --location", "could not download the nucleus;"),
        (JOINED, f"could not get the certificate of {THING};"),
        ("java -Droot", "could not start the nucleus;"),
        (
            "systemctl is-active",
            "could not start the nucleus: the service greengrass must be active within 60 seconds",
        ),
    ],
)
def test_a_failure_is_signalled_with_its_step_and_cause(system: System, failing: str, reason: str) -> None:
    system.fail({"rpm": 1, failing: 99})

    assert system.run().returncode == 1

    signal = system.signal()
    assert signal is not None
    assert signal["Status"] == "FAILURE"
    assert signal["Reason"].startswith(reason)
    assert "journalctl -t edgewright-edge-server" in signal["Reason"]


def test_a_wrong_digest_is_in_the_reason(system: System) -> None:
    (system.home / "download").write_bytes(b"something else")

    system.run()

    signal = system.signal()
    assert signal is not None
    assert "sha-256 of https://downloads.example/nucleus.zip must be" in signal["Reason"]


def test_quotes_do_not_break_the_signal(system: System) -> None:
    system.settings["NUCLEUS_SHA256"] = 'x"\\'

    system.run()

    signal = system.signal()
    assert signal is not None
    assert signal["Reason"].startswith("could not read the settings: EDGEWRIGHT_NUCLEUS_SHA256 must be 64")


def test_a_signal_that_cannot_be_sent_changes_nothing_else(system: System) -> None:
    system.fail({"rpm": 1, "curl --fail --silent --show-error --request PUT": 1})

    assert system.run().returncode == 0
    assert system.signal() is None
    assert any("could not be sent to CloudFormation" in line for line in system.journal())


def test_a_later_start_signals_nothing(system: System) -> None:
    system.run()

    system.run()

    assert system.signal() is None
