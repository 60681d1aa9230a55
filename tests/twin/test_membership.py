"""`join` and `leave`: a device of plain clients joins with the bundle's files only, and nothing is left of it after."""

from __future__ import annotations

import os
import ssl
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from tests.twin.conftest import Clients
from twin import TwinError, inventory
from twin.cli import application
from twin.devices.identity import CLASSIC_CONFIG_FILE, CONFIG_FILE, CloudNames, Identity, write_bundle
from twin.devices.membership import Membership
from twin.state import TwinState


@pytest.fixture
def run(twin: TwinState, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TWIN_HOME", str(twin.home))
    return lambda *words: CliRunner().invoke(application, list(words))


def test_a_joined_device_is_known_by_the_files_of_its_folder_and_leaves_without_a_trace(
    twin: TwinState, run: Any, tmp_path: Path
) -> None:
    before = inventory.take(twin)

    result = run("join", "board-1", "--group", "ring-a", "--out", str(tmp_path / "b"), "--root", str(tmp_path / "b"))

    assert result.exit_code == 0, result.output
    config = yaml.safe_load((tmp_path / "b" / CONFIG_FILE).read_text())
    classic = yaml.safe_load((tmp_path / "b" / CLASSIC_CONFIG_FILE).read_text())
    system, nucleus = config["system"], config["services"]["aws.greengrass.NucleusLite"]["configuration"]
    assert classic["system"]["thingName"] == system["thingName"] == "board-1"
    bundle = tmp_path / "b"
    assert [path for path in (bundle, *bundle.rglob("*")) if path.stat().st_mode & 0o077] == []
    context = ssl.create_default_context(cafile=system["rootCaPath"])
    context.load_cert_chain(system["certificateFilePath"], system["privateKeyPath"])
    proxy = nucleus["networkProxy"]["proxy"]["url"]
    # Components ask the credential endpoint of their own device.
    assert nucleus["networkProxy"]["noProxyAddresses"] == "127.0.0.1,localhost"
    with httpx.Client(proxy=proxy, verify=context, timeout=30) as client:
        data = f"https://{nucleus['iotDataEndpoint']}:{nucleus['greengrassDataPlanePort']}/greengrass/v2"
        groups = client.get(f"{data}/coreDevices/board-1/thingGroups").json()["thingGroups"]
        url = f"https://{nucleus['iotCredEndpoint']}/role-aliases/{nucleus['iotRoleAlias']}/credentials"
        answer = client.get(url, headers={"x-amzn-iot-thingname": "board-1"})
    assert [group["thingGroupName"] for group in groups] == ["ring-a"]
    assert len(answer.json()["credentials"]["accessKeyId"]) == 20

    result = run("leave", "board-1")

    assert result.exit_code == 0, result.output
    assert inventory.take(twin) == before
    assert "nothing of it is left" in run("leave", "board-1").output
    with httpx.Client(proxy=proxy, verify=context, timeout=30) as client:
        assert client.get(f"{data}/coreDevices/board-1/thingGroups").status_code == 403


def test_the_readmes_commands_keep_the_key_from_components_and_give_them_the_trusted_root(tmp_path: Path) -> None:
    bundle, etc, root = tmp_path / "bundle", tmp_path / "etc", tmp_path / "root"
    names = CloudNames("board-9", "us-east-1", "d.amazonaws.com", "c.amazonaws.com", "alias")
    identity = Identity(**asdict(names), certificate="c", private_key="k", root_ca="r", groups=())
    write_bundle(bundle, identity, 1, str(root))
    (etc / "config.d").mkdir(parents=True)
    package = etc / "config.d" / "greengrass-lite.yaml"
    package.write_text('runWithDefault:\n  posixUser: "ggcore:ggcore"\n')
    (root / "work" / "com.a").mkdir(parents=True)
    lite = (bundle / "README.md").read_text().split("## ")[1]
    commands = [line.strip() for line in lite.splitlines() if line.startswith("    ")]
    stub = (
        'sudo() { case $1 in systemctl|useradd) ;; chown) echo "$@" >>"$OWNERS" ;; *) "$@" ;; esac; }; id() { false; }'
    )
    script = (
        "\n".join(["set -e", stub, *commands]).replace(" -o ggcore -g ggcore", "").replace("/etc/greengrass", str(etc))
    )

    subprocess.run(
        ["/bin/sh", "-c", script], check=True, cwd=bundle, env={**os.environ, "OWNERS": str(tmp_path / "owners")}
    )

    modes = {path.name: path.stat().st_mode & 0o777 for path in (root / "credentials").iterdir()}
    assert modes == {"private.pem.key": 0o600, "device.pem.crt": 0o644, "root_ca.pem": 0o644}
    assert (root / "credentials").stat().st_mode & 0o777 == 0o755
    assert package.read_text() == 'runWithDefault:\n  posixUser: "gg_component:gg_component"\n'
    assert "gg_component:gg_component" in (etc / "config.yaml").read_text()
    assert (tmp_path / "owners").read_text() == f"chown -R gg_component:gg_component {root}/work\n"


def test_a_device_of_a_deployed_stage_gets_its_policy_alias_and_group(twin: TwinState, client: Clients) -> None:
    iot, iam = client("iot"), client("iam")
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')["Role"]
    iot.create_role_alias(roleAlias="edgewright-stage-token-exchange", roleArn=role["Arn"])
    iot.create_policy(policyName="edgewright-stage-core-device", policyDocument='{"Version": "2012-10-17"}')
    iot.create_thing_group(thingGroupName="edgewright-stage")
    membership = Membership(twin, "stage")
    try:
        identity = membership.join("board-2")

        assert (identity.role_alias, identity.groups) == ("edgewright-stage-token-exchange", ("edgewright-stage",))
        assert "twin-devices" not in iot.list_role_aliases()["roleAliases"]

        membership.leave("board-2")

        groups = [group["groupName"] for group in iot.list_thing_groups()["thingGroups"]]
        assert "edgewright-stage" in groups, "a group that `join` did not make stays"
    finally:
        iot.delete_thing_group(thingGroupName="edgewright-stage")
        iot.delete_policy(policyName="edgewright-stage-core-device")
        iot.delete_role_alias(roleAlias="edgewright-stage-token-exchange")
        iam.delete_role(RoleName="r")


def test_a_thing_of_somebody_else_can_neither_join_nor_leave(twin: TwinState, client: Clients) -> None:
    client("iot").create_thing(thingName="theirs")
    try:
        for act in (Membership(twin).join, Membership(twin).leave):
            with pytest.raises(TwinError, match="THING must be"):
                act("theirs")

        assert client("iot").describe_thing(thingName="theirs")["thingName"] == "theirs"
    finally:
        client("iot").delete_thing(thingName="theirs")


@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 125])
def test_a_name_that_is_none_is_refused_before_anything_is_made(twin: TwinState, name: str) -> None:
    with pytest.raises(TwinError, match="THING must be 1 to 124"):
        Membership(twin).join(name)


def test_a_folder_that_cannot_be_written_leaves_no_identity_behind(twin: TwinState, run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    before = inventory.take(twin)

    result = run("join", "board-3", "--out", str(tmp_path / "file" / "below"))

    assert isinstance(result.exception, TwinError)
    assert inventory.take(twin) == before
