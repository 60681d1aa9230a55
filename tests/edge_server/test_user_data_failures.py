from pathlib import Path

import pytest

from tests.edge_server.system import ARN, System

MADE = "aws iot create-keys-and-certificate"
DELETED = "aws iot delete-certificate --certificate-id 0123abcd --force-delete"
TAKEN_BACK = [
    f"aws iot detach-thing-principal --thing-name edgewright-dev-edge-server --principal {ARN}",
    f"aws iot detach-policy --policy-name edgewright-dev-core-device --target {ARN}",
    "aws iot update-certificate --certificate-id 0123abcd --new-status INACTIVE",
    DELETED,
]


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
    assert not system.calls(MADE)


def test_a_download_with_another_digest_is_never_unpacked(system: System) -> None:
    (system.home / "download").write_bytes(b"something else")

    result = system.run()

    assert result.returncode == 1
    assert any("sha-256 of https://downloads.example/nucleus.zip must be" in line for line in system.journal())
    assert not system.calls("unzip")
    assert not system.calls(MADE)


def test_a_trust_store_without_the_authority_is_refused(system: System) -> None:
    system.trust_store.write_text("")

    result = system.run()

    assert result.returncode == 1
    assert any("must hold Amazon Root CA 1" in line for line in system.journal())
    assert not system.calls(MADE)


def test_packages_are_tried_five_times(system: System) -> None:
    system.fail({"rpm": 1, "dnf": 9})

    result = system.run()

    assert result.returncode == 1
    assert len(system.calls("dnf")) == 5
    assert system.calls("sleep") == ["sleep 5", "sleep 10", "sleep 15", "sleep 20"]


def test_a_role_that_is_not_known_yet_is_waited_for(system: System) -> None:
    system.fail({"aws iot describe-endpoint": 2, "aws iot attach-policy": 1})

    result = system.run()

    assert result.returncode == 0, result.stderr
    assert 'iotDataEndpoint: "abc-ats.iot.example"' in (system.root / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("aws iot attach-policy", "make the certificate of edgewright-dev-edge-server"),
        ("aws iot attach-thing-principal", "make the certificate of edgewright-dev-edge-server"),
        (
            "aws iot add-thing-to-thing-group",
            "put edgewright-dev-edge-server into the thing group edgewright-dev",
        ),
        ("java -Droot", "start the nucleus"),
        ("systemctl is-active", "start the nucleus"),
    ],
)
def test_a_failure_takes_the_certificate_back(system: System, call: str, step: str) -> None:
    system.fail({"rpm": 1, call: 99})

    result = system.run()

    assert result.returncode == 1
    assert system.journal()[-1] == f"failure: could not {step}"
    made = [index for index, line in enumerate(system.calls()) if line.startswith(MADE)]
    after = [line for line in system.calls()[made[0] :] if line.startswith("aws iot")]
    assert [line.split(" --region")[0] for line in after][-4:] == TAKEN_BACK
    assert not (system.root / "private.pem.key").exists()
    assert not (system.root / "config.yaml").exists()


def test_a_certificate_that_cannot_be_made_leaves_nothing_to_delete(system: System) -> None:
    system.fail({MADE: 1})

    result = system.run()

    assert result.returncode == 1
    assert not system.calls("aws iot delete-certificate")


def test_a_certificate_that_cannot_be_deleted_is_named(system: System) -> None:
    system.fail({"java -Droot": 1, "aws iot delete-certificate": 99})

    result = system.run()

    assert result.returncode == 1
    assert "certificate 0123abcd could not be deleted: delete it by hand" in system.journal()


def test_an_interrupted_run_takes_the_certificate_back(system: System) -> None:
    system.stand_in(
        "java",
        "#!/bin/sh\ncase $* in *--version*) echo AWS Greengrass v2.14.3 ;; *) kill -TERM $PPID ;; esac\n",
    )

    result = system.run()

    assert result.returncode == 1
    assert system.journal()[-1] == "failure: could not start the nucleus"
    assert len(system.calls(DELETED)) == 1


def test_a_nucleus_that_does_not_tell_its_version_is_refused(system: System) -> None:
    system.stand_in("java", "#!/bin/sh\necho '?'\n")

    result = system.run()

    assert result.returncode == 1
    assert "error: the nucleus must tell its version as vN.N.N, got ?" in system.journal()
    assert not system.calls(MADE)
