"""A new edge server takes the place of the one before: waited for, sent what devices run, with the only certificate.

The tests run in this order, on one twin.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from config.names import Names
from tests.app_copy import copy_app
from tools.offline_deploy import OfflineDeploy
from twin import inventory, lifecycle
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
NAMES = Names("twin")


@dataclass
class Stage:
    """The stage `twin`, with one model, deployed."""

    app: Path
    state: TwinState
    deploy: OfflineDeploy

    def client(self, service: str) -> Any:
        return boto3.client(service, **self.state.client_arguments())

    def server(self) -> str:
        """Id of the instance that runs."""
        reservations = self.client("ec2").describe_instances()["Reservations"]
        (running,) = [
            each["InstanceId"] for found in reservations for each in found["Instances"] if each["State"]["Code"] == 16
        ]
        return str(running)

    def certificates(self) -> list[str]:
        """What carries the devices' policy; the edge server is the only device."""
        return list(self.client("iot").list_targets_for_policy(policyName=NAMES.iot_policy)["targets"])

    def installed(self) -> dict[str, str]:
        """Component to version, on the edge server."""
        found = self.client("greengrassv2").list_installed_components(
            coreDeviceThingName=NAMES.edge_server, topologyFilter="ALL"
        )["installedComponents"]
        return {each["componentName"]: each["componentVersion"] for each in found if "edgewright" in str(each)}

    def change(self, pattern: str, replacement: str) -> None:
        """Change the stage's file and deploy."""
        file = self.app / "config" / "twin.toml"
        text, changed = re.subn(pattern, replacement, file.read_text(), count=1)
        assert changed == 1
        file.write_text(text)
        self.deploy.synth()
        self.deploy.deploy()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("replaced")
    app = copy_app(folder / "app")
    text = (app / "config" / "twin.toml").read_text()
    head, _, rest = text.partition("[[models]]\n")
    sections = rest.partition("[runtime]")[2].partition("[observability.models.")[0]
    model = '[[models]]\nfolder = "iris"\ncompiler = "none"\n'
    (app / "config" / "twin.toml").write_text(f"{head}{model}\n[runtime]{sections}")
    state = lifecycle.start(folder / "twin")
    try:
        deploy = OfflineDeploy(environment=state.environment(), out=folder / "out", app=app)
        deploy.synth()
        deploy.bootstrap()
        deploy.deploy()
        yield Stage(app, state, deploy)
    finally:
        lifecycle.stop(folder / "twin")


def test_a_new_server_runs_what_its_ring_runs_and_has_the_only_certificate(stage: Stage) -> None:
    server, certificates, installed = stage.server(), stage.certificates(), stage.installed()
    assert len(certificates) == 1
    assert f"{NAMES.inference_component}" in installed

    stage.change(r"(?m)^\[network\]", "[edge_server]\nimage = 2026-12-24\n\n[network]")

    assert stage.server() != server
    (only,) = stage.certificates()
    assert only not in certificates
    assert stage.client("iot").list_thing_principals(thingName=NAMES.edge_server)["principals"] == [only]
    stage.deploy.wait_for_device(NAMES.edge_server, timeout_s=120)
    assert stage.installed() == installed


def test_the_servers_role_is_told_that_it_has_joined(stage: Stage) -> None:
    answer = stage.client("lambda").invoke(
        FunctionName=NAMES.join_function,
        Payload=json.dumps({"csr": "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"}),
    )

    assert "must join once" in answer["Payload"].read().decode()
    assert len(stage.certificates()) == 1


def test_a_deploy_without_a_change_keeps_the_server(stage: Stage) -> None:
    server = stage.server()

    stage.deploy.deploy()

    assert stage.server() == server


def test_a_destroy_takes_nothing_that_is_not_the_stages(stage: Stage) -> None:
    iot = stage.client("iot")
    iot.create_thing(thingName="foreign", attributePayload={"attributes": {"site": "north"}})
    certificate = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    iot.attach_thing_principal(thingName="foreign", principal=certificate)
    iot.add_thing_to_thing_group(thingName="foreign", thingGroupName=NAMES.thing_group)

    stage.deploy.destroy()

    assert iot.describe_thing(thingName="foreign")["attributes"] == {"site": "north"}
    assert iot.list_thing_principals(thingName="foreign")["principals"] == [certificate]
    found = inventory.take(stage.state)
    left = {name for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names}
    assert left == {"foreign", certificate.rpartition("/")[2]}
