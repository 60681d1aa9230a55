import stat
from pathlib import Path

import pytest

from tests.edge_server.system import ARN, ROOT_CA, System

MADE = "aws iot create-keys-and-certificate"


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_makes_a_fresh_instance_a_core_device(system: System) -> None:
    result = system.run()

    assert result.returncode == 0, result.stderr
    assert system.journal()[-1] == "success: edgewright-dev-edge-server is a core device"
    assert system.calls("dnf") == ["dnf install --assumeyes --quiet java-17-amazon-corretto-headless python3.12 unzip"]
    assert len(system.calls(MADE)) == 1
    assert "--set-as-active" in system.calls(MADE)[0]
    assert not system.calls("aws iot delete-certificate")
    [start] = [call for call in system.calls("java") if "--init-config" in call]
    assert f"-Droot={system.root}" in start
    assert start.endswith("--component-default-user ggc_user:ggc_group --setup-system-service true")
    assert "--provision" not in start


def test_attaches_policy_thing_and_group_before_the_nucleus_starts(system: System) -> None:
    system.run()

    wanted = [
        MADE,
        f"aws iot attach-policy --policy-name edgewright-dev-core-device --target {ARN}",
        f"aws iot attach-thing-principal --thing-name edgewright-dev-edge-server --principal {ARN}",
        "aws iot add-thing-to-thing-group --thing-name edgewright-dev-edge-server --thing-group-name edgewright-dev",
        f"java -Droot={system.root}",
    ]
    calls = system.calls()
    order = [next(i for i, call in enumerate(calls) if call.startswith(prefix)) for prefix in wanted]
    assert order == sorted(order)


def test_every_iot_call_names_its_region_and_is_bounded(system: System) -> None:
    system.run()

    for call in system.calls("aws iot"):
        assert call.endswith("--region eu-west-1 --cli-connect-timeout 10 --cli-read-timeout 30")


def test_writes_the_configuration_of_the_classic_nucleus(system: System) -> None:
    system.run()

    assert (
        (system.root / "config.yaml").read_text()
        == f"""---
system:
  certificateFilePath: "{system.root}/device.pem.crt"
  privateKeyPath: "{system.root}/private.pem.key"
  rootCaPath: "{system.root}/root_ca.pem"
  rootpath: "{system.root}"
  thingName: "edgewright-dev-edge-server"
services:
  aws.greengrass.Nucleus:
    componentType: "NUCLEUS"
    version: "2.14.3"
    configuration:
      awsRegion: "eu-west-1"
      iotRoleAlias: "edgewright-dev-token-exchange"
      iotDataEndpoint: "abc-ats.iot.example"
      iotCredEndpoint: "abc.credentials.iot.example"
"""
    )


def test_only_root_can_read_the_key_and_no_copy_is_left(system: System) -> None:
    system.run()

    for name in ("private.pem.key", "device.pem.crt"):
        assert stat.S_IMODE((system.root / name).stat().st_mode) == 0o600
    assert list((system.home / "tmp").iterdir()) == []
    assert "key" not in system.journal()


def test_takes_one_authority_from_the_trust_store(system: System) -> None:
    system.run()

    assert (system.root / "root_ca.pem").read_text().split() == ROOT_CA.read_text().split()


def test_a_second_run_changes_nothing(system: System) -> None:
    system.run()
    before = {path: path.stat().st_mtime_ns for path in system.root.rglob("*")}

    result = system.run()

    assert result.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in system.root.rglob("*")} == before
    # The journal's process runs beside the script.
    assert {call.split()[0] for call in system.calls()} == {"logger", "systemctl"}


def test_a_run_after_a_failure_starts_afresh(system: System) -> None:
    system.fail({"java -Droot": 1})
    assert system.run().returncode == 1

    assert system.run().returncode == 0

    assert len(system.calls(MADE)) == 1


def test_a_certificate_that_is_there_is_used_again(system: System) -> None:
    system.run()
    (system.root / "provisioned").unlink()
    system.fail({"java -Droot": 1})

    result = system.run()

    assert result.returncode == 1
    assert not system.calls(MADE)
    assert not system.calls("aws iot delete-certificate"), "only a certificate of the same run is taken back"


def test_packages_that_are_there_are_not_installed_again(system: System) -> None:
    system.fail({})

    system.run()

    assert not system.calls("dnf")
