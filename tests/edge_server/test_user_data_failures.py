from pathlib import Path

import pytest

from tests.edge_server.system import CERTIFICATE, JOINED, System

LEFT = {"leave": CERTIFICATE}


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_refuses_to_start_without_its_settings_and_names_them_all(system: System) -> None:
    del system.settings["THING_NAME"]
    system.settings["NUCLEUS_URL"] = ""

    result = system.run()

    assert result.returncode == 1
    assert "EDGEWRIGHT_THING_NAME EDGEWRIGHT_NUCLEUS_URL" in "\n".join(system.journal())
    assert system.journal()[-1] == "failure: could not read the settings"


def test_a_download_that_fails_leaves_no_certificate(system: System) -> None:
    system.fail({"curl": 1})

    result = system.run()

    assert result.returncode == 1
    assert system.journal()[-1] == "failure: could not download the nucleus"
    assert not system.asked()


def test_a_download_with_another_digest_is_never_unpacked(system: System) -> None:
    (system.home / "download").write_bytes(b"something else")

    result = system.run()

    assert result.returncode == 1
    assert any("sha-256 of https://downloads.example/nucleus.zip must be" in line for line in system.journal())
    assert not system.calls("unzip")
    assert not system.asked()


def test_a_trust_store_without_the_authority_is_refused(system: System) -> None:
    system.trust_store.write_text("")

    result = system.run()

    assert result.returncode == 1
    assert any("must hold Amazon Root CA 1" in line for line in system.journal())
    assert not system.asked()


def test_packages_are_tried_five_times(system: System) -> None:
    system.fail({"rpm": 1, "dnf": 9})

    result = system.run()

    assert result.returncode == 1
    assert len(system.calls("dnf")) == 5
    assert system.calls("sleep") == ["sleep 5", "sleep 10", "sleep 15", "sleep 20"]


def test_a_role_that_is_not_known_yet_is_waited_for(system: System) -> None:
    system.fail({JOINED: 2})

    result = system.run()

    assert result.returncode == 0, result.stderr
    assert 'iotDataEndpoint: "abc-ats.iot.example"' in (system.root / "config.yaml").read_text()


@pytest.mark.parametrize("call", ["java -Droot", "systemctl is-active"])
def test_a_failure_gives_the_certificate_back(system: System, call: str) -> None:
    system.fail({"rpm": 1, call: 99})

    result = system.run()

    assert result.returncode == 1
    assert system.journal()[-1] == "failure: could not start the nucleus"
    assert system.asked()[1:] == [LEFT]
    assert not (system.root / "private.pem.key").exists()
    assert not (system.root / "config.yaml").exists()


def test_a_server_that_may_not_join_says_why(system: System) -> None:
    system.refuse("edge-server must join once, server 1a2b3c4d has")

    result = system.run()

    assert result.returncode == 1
    signal = system.signal()
    assert signal is not None
    assert signal["Reason"].startswith(
        "could not get the certificate of edgewright-dev-edge-server: edge-server must join once, server 1a2b3c4d has"
    )
    assert [list(each) for each in system.asked()] == [["csr"]] * 5
    assert not (system.root / "joined.json").exists()


def test_a_certificate_that_cannot_be_given_back_is_named(system: System) -> None:
    system.fail({"java -Droot": 1})
    system.stand_in(
        "java",
        "#!/bin/sh\ncase $* in *--version*) echo AWS Greengrass v2.14.3 ;; *)\n"
        f'echo \'{{"errorMessage": "no"}}\' > {system.home}/refusal; exit 1 ;; esac\n',
    )

    result = system.run()

    assert result.returncode == 1
    assert f"certificate {CERTIFICATE} is left: the next server takes it away" in system.journal()


def test_a_machine_whose_metadata_stays_open_does_not_join(system: System) -> None:
    system.stand_in("runuser", "#!/bin/sh\n")

    result = system.run()

    assert result.returncode == 1
    assert "error: only root must reach the instance's metadata, nobody does, too" in system.journal()
    assert not system.asked()


def test_an_interrupted_run_takes_the_certificate_back(system: System) -> None:
    system.stand_in(
        "java",
        "#!/bin/sh\ncase $* in *--version*) echo AWS Greengrass v2.14.3 ;; *) kill -TERM $PPID ;; esac\n",
    )

    result = system.run()

    assert result.returncode == 1
    assert system.journal()[-1] == "failure: could not start the nucleus"
    assert system.asked()[1:] == [LEFT]


def test_a_nucleus_that_does_not_tell_its_version_is_refused(system: System) -> None:
    system.stand_in("java", "#!/bin/sh\necho '?'\n")

    result = system.run()

    assert result.returncode == 1
    assert "error: the nucleus must tell its version as vN.N.N, got ?" in system.journal()
    assert not system.asked()
