import stat
from pathlib import Path

import pytest

from edge_handlers.server_join import Server, join
from tests.edge_server.system import JOINED, ROOT_CA, System
from tests.handlers.fake_iot import FakeIot


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_makes_a_fresh_instance_a_core_device(system: System) -> None:
    result = system.run()

    assert result.returncode == 0, result.stderr
    assert system.journal()[-1] == "success: edgewright-dev-edge-server is a core device"
    assert system.calls("dnf") == [
        "dnf install --assumeyes --quiet java-17-amazon-corretto-headless nftables openssl python3.12 unzip"
    ]
    assert system.asked() == [{"csr": "-----BEGIN\nrequest"}]
    [start] = [call for call in system.calls("java") if "--init-config" in call]
    assert f"-Droot={system.root}" in start
    assert start.endswith("--component-default-user ggc_user:ggc_group --setup-system-service true")
    assert "--provision" not in start


def test_closes_the_metadata_and_joins_before_the_nucleus_starts(system: System) -> None:
    system.run()

    wanted = [
        "systemctl enable --now edgewright-metadata.service",
        "runuser -u nobody -- curl --silent --max-time 3 --output /dev/null http://169.254.169.254/",
        JOINED,
        f"java -Droot={system.root}",
    ]
    calls = system.calls()
    order = [next(i for i, call in enumerate(calls) if call.startswith(prefix)) for prefix in wanted]
    assert order == sorted(order)


def test_every_call_of_aws_names_its_region_and_is_bounded(system: System) -> None:
    system.run()

    (call,) = system.calls("aws ")
    assert "--region eu-west-1 --cli-connect-timeout 10 --cli-read-timeout 70" in call


def test_only_root_is_let_to_the_metadata_from_now_on(system: System) -> None:
    system.run()

    rules = (system.home / "units" / "edgewright-metadata.nft").read_text()
    unit = (system.home / "units" / "edgewright-metadata.service").read_text()
    assert "ip daddr 169.254.169.254 meta skuid != 0 reject" in rules
    assert "ip6 daddr fd00:ec2::254 meta skuid != 0 reject" in rules
    assert f"ExecStart=/usr/sbin/nft -f {system.home}/units/edgewright-metadata.nft" in unit
    assert "WantedBy=multi-user.target" in unit


def test_what_the_script_asks_is_what_the_function_takes(system: System) -> None:
    (system.home / "bin" / "openssl").unlink()
    server = Server("edgewright-dev-edge-server", "edgewright-dev", "edgewright-dev-core-device", "1a2b3c4d")
    iot = FakeIot()
    iot.things[server.thing] = {"attributes": {}}

    system.run()

    (asked,) = system.asked()
    assert join(asked["csr"], server, iot)["certificateId"]
    assert "PRIVATE KEY" in (system.root / "private.pem.key").read_text()


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

    assert [list(each) for each in system.asked()] == [["csr"]]


def test_a_certificate_that_is_there_is_used_again(system: System) -> None:
    system.run()
    (system.root / "provisioned").unlink()
    system.fail({"java -Droot": 1})

    result = system.run()

    assert result.returncode == 1
    assert not system.asked(), "only a certificate of the same run is given back"


def test_packages_that_are_there_are_not_installed_again(system: System) -> None:
    system.fail({})

    system.run()

    assert not system.calls("dnf")
