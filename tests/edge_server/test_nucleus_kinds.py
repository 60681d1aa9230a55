"""Nucleus lite and the container: what differs from the classic nucleus."""

from pathlib import Path

import pytest

from tests.edge_server.system import CERTIFICATE, JOINED, System

THING = "edgewright-dev-edge-server"


@pytest.fixture(params=["lite", "docker"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    return System(tmp_path, nucleus=request.param)


def test_makes_a_fresh_instance_a_core_device(kind: System) -> None:
    result = kind.run()

    assert result.returncode == 0, result.stderr
    assert kind.journal()[-1] == f"success: {THING} is a core device"
    assert kind.signal() is not None
    assert (kind.root / "private.pem.key").stat().st_mode & 0o777 == 0o600


def test_a_second_run_changes_nothing(kind: System) -> None:
    kind.run()

    assert kind.run().returncode == 0
    assert {call.split()[0] for call in kind.calls()} == {"logger", "systemctl"}


@pytest.mark.parametrize("failing", ["curl --fail --silent --show-error --location", JOINED, "systemctl is-active"])
def test_a_failure_leaves_no_certificate(kind: System, failing: str) -> None:
    kind.fail({"rpm": 1, "dpkg": 1, failing: 99})

    assert kind.run().returncode == 1
    got = [each for each in kind.asked() if "csr" in each]
    assert kind.asked()[len(got) :] == [{"leave": CERTIFICATE}] * len(got)


def test_a_wrong_digest_is_refused_before_anything_is_installed_from_it(kind: System) -> None:
    (kind.home / "download").write_bytes(b"something else")

    assert kind.run().returncode == 1
    assert not kind.calls("unzip")
    assert not kind.calls("docker import")


def test_lite_installs_its_package_and_writes_its_configuration(tmp_path: Path) -> None:
    system = System(tmp_path, nucleus="lite")
    system.run()

    assert any(call.endswith("/aws-greengrass-lite-2.6.0-Linux.deb") for call in system.calls("apt-get install"))
    assert "systemctl restart greengrass-lite.target" in system.calls()
    text = (tmp_path / "etc" / "config.yaml").read_text()
    assert f'rootPath: "{system.root}"' in text
    assert '  aws.greengrass.NucleusLite:\n    componentType: "NUCLEUS"' in text
    assert 'iotCredEndpoint: "abc.credentials.iot.example"' in text


def test_lites_components_are_not_the_owner_of_the_private_key(tmp_path: Path) -> None:
    system = System(tmp_path, nucleus="lite")
    system.run()

    settings = [tmp_path / "etc" / "config.yaml", *(tmp_path / "etc" / "config.d").iterdir()]
    users = [line.strip() for file in settings for line in file.read_text().splitlines() if "posixUser" in line]
    assert users == ['posixUser: "gg_component:gg_component"'] * 2
    assert (system.root / "private.pem.key").stat().st_mode & 0o777 == 0o600
    assert (system.root / "root_ca.pem").stat().st_mode & 0o777 == 0o644
    assert "useradd --system --user-group --no-create-home gg_component" in system.calls()


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        ("apt-get update", "install packages"),
        ("apt-get install --yes --quiet /", "prepare the nucleus"),
        ("systemctl restart", "start the nucleus"),
        ("systemctl is-active", "start the nucleus"),
    ],
)
def test_lite_names_the_step_that_failed(tmp_path: Path, failing: str, step: str) -> None:
    system = System(tmp_path, nucleus="lite")
    system.fail({"dpkg": 1, failing: 99})

    assert system.run().returncode == 1
    assert system.journal()[-1] == f"failure: could not {step}"


def test_docker_builds_its_image_and_keeps_the_identity_on_the_host(tmp_path: Path) -> None:
    system = System(tmp_path, nucleus="docker")
    system.run()

    (installed,) = [call for call in system.calls("dnf") if "--installroot" in call]
    assert {"java-17-amazon-corretto-headless", "python3.12"} <= set(installed.split())
    assert "docker import - edgewright-greengrass" in system.calls()
    (started,) = [call for call in system.calls("docker run") if "--detach" in call]
    assert f"--volume {system.root}:{system.root}" in started
    assert "--restart always" in started
    assert not any(" pull " in call for call in system.calls("docker"))


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        ("systemctl enable --now docker", "install packages"),
        ("docker import", "prepare the nucleus"),
        ("docker run --init", "start the nucleus"),
        ("docker inspect", "start the nucleus"),
    ],
)
def test_docker_names_the_step_that_failed(tmp_path: Path, failing: str, step: str) -> None:
    system = System(tmp_path, nucleus="docker")
    system.fail({"rpm": 1, failing: 99})

    assert system.run().returncode == 1
    assert system.journal()[-1] == f"failure: could not {step}"
