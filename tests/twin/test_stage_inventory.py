"""`python -m tools.inventory` against the twin's endpoint, as against a shared account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from config.names import Names
from tests.twin.conftest import Clients
from tools import inventory
from twin.state import TwinState

OURS, THEIRS = Names("lab"), Names("lab2")


@pytest.fixture
def account(twin: TwinState, client: Clients, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, str]]]:
    """Two stages' leftovers, one of whose names begins with the other's; kind to the id of each stage's."""
    for name, value in twin.environment().items():
        monkeypatch.setenv(name, value)
    iot, greengrass = client("iot"), client("greengrassv2")
    made: dict[str, dict[str, str]] = {}
    for names in (OURS, THEIRS):
        group = iot.create_thing_group(thingGroupName=names.thing_group)["thingGroupArn"]
        attributes = {"attributes": {"edgewright-registry": names.thing_group}}
        iot.create_thing(thingName=f"line-of-{names.stage}", attributePayload=attributes)
        iot.create_policy(policyName=names.iot_policy, policyDocument='{"Version": "2012-10-17", "Statement": []}')
        certificate = iot.create_keys_and_certificate(setAsActive=False)
        iot.attach_policy(policyName=names.iot_policy, target=certificate["certificateArn"])
        deployment = greengrass.create_deployment(targetArn=group)
        made[names.stage] = {
            "things": f"line-of-{names.stage}",
            "certificates": certificate["certificateId"],
            "deployments": deployment["deploymentId"],
            "IoT jobs": deployment["iotJobId"],
            "IoT policies": names.iot_policy,
            "thing groups": names.thing_group,
        }
    yield made
    for names in (OURS, THEIRS):
        left = made[names.stage]
        # What a test has swept is gone already.
        with suppress(ClientError):
            greengrass.cancel_deployment(deploymentId=left["deployments"])
            greengrass.delete_deployment(deploymentId=left["deployments"])
        with suppress(ClientError):
            certificate = iot.describe_certificate(certificateId=left["certificates"])["certificateDescription"]
            iot.detach_policy(policyName=names.iot_policy, target=certificate["certificateArn"])
            iot.delete_certificate(certificateId=left["certificates"])
        iot.delete_policy(policyName=names.iot_policy)
        iot.delete_thing(thingName=left["things"])
        iot.delete_thing_group(thingGroupName=names.thing_group)


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    for names in (OURS, THEIRS):
        (tmp_path / f"{names.stage}.toml").write_text('region = "us-east-1"\n[[models]]\nfolder = "digits"\n')
    return tmp_path


def run(stages: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = inventory.main(["--stage", stage, "--config", str(stages), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_lists_the_leftovers_of_one_stage_only(
    account: dict[str, dict[str, str]], stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, left in account.items():
        assert run(stages, stage, capsys) == (1, {kind: [name] for kind, name in left.items()})


def test_a_person_is_told_how_many_there_are(
    account: dict[str, dict[str, str]], stages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inventory.main(["--stage", "lab", "--config", str(stages)]) == 1

    told = capsys.readouterr().out.splitlines()
    assert f"certificates: {account['lab']['certificates']}" in told
    assert told[-1] == "left of stage lab: 6"


def test_nothing_is_left_of_a_stage_that_was_never_there(
    twin: TwinState, stages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in twin.environment().items():
        monkeypatch.setenv(name, value)

    assert inventory.main(["--stage", "lab", "--config", str(stages)]) == 0
    assert capsys.readouterr().out == "left of stage lab: nothing\n"


def test_a_sweep_takes_what_the_handlers_made_and_leaves_other_stages_alone(
    account: dict[str, dict[str, str]], stages: Path, client: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    job, others = (f"{names.prefix}-digits-0123456789ab" for names in (OURS, THEIRS))
    for name in (job, others):
        client("sagemaker").create_model(
            ModelName=name,
            ExecutionRoleArn="arn:aws:iam::000000000000:role/none",
            PrimaryContainer={"Image": "none", "ModelDataUrl": "s3://none/model.tar.gz"},
        )
    client("ssm").put_parameter(Name="/edgewright/lab/models/digits/package-uri", Value="s3://a/b", Type="String")
    client("logs").create_log_group(logGroupName="/aws/lambda/edgewright-lab-left")

    code = inventory.main(["--stage", "lab", "--config", str(stages), "--json", "--sweep"])

    swept = json.loads(capsys.readouterr().out)
    stacks_own = {kind: [account["lab"][kind]] for kind in ("IoT policies", "thing groups")}
    assert (code, swept) == (1, stacks_own)
    theirs = {kind: [name] for kind, name in account["lab2"].items()}
    assert run(stages, "lab2", capsys)[1] == {**theirs, "SageMaker models": [others]}
    client("sagemaker").delete_model(ModelName=others)


def test_a_stage_with_stacks_is_not_swept(
    account: dict[str, dict[str, str]], stages: Path, client: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    parameter = {"Type": "AWS::SSM::Parameter", "Properties": {"Type": "String", "Value": "1"}}
    template = json.dumps({"Resources": {"Parameter": parameter}})
    client("cloudformation").create_stack(StackName=OURS.stack("storage"), TemplateBody=template)
    try:
        assert inventory.main(["--stage", "lab", "--config", str(stages), "--sweep"]) == 2
    finally:
        client("cloudformation").delete_stack(StackName=OURS.stack("storage"))

    assert "must have no stacks, got edgewright-lab-storage: run `npx cdk destroy" in capsys.readouterr().err
    assert run(stages, "lab", capsys)[1] == {kind: [name] for kind, name in account["lab"].items()}


def test_a_sweep_says_which_device_outside_of_every_ring_has_the_policy(
    account: dict[str, dict[str, str]], stages: Path, client: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    iot, certificate = client("iot"), account["lab"]["certificates"]
    arn = iot.describe_certificate(certificateId=certificate)["certificateDescription"]["certificateArn"]
    iot.create_thing(thingName="stranger")
    iot.attach_thing_principal(thingName="stranger", principal=arn)
    try:
        assert inventory.main(["--stage", "lab", "--config", str(stages), "--sweep"]) == 2
    finally:
        iot.detach_thing_principal(thingName="stranger", principal=arn)
        iot.delete_thing(thingName="stranger")

    told = capsys.readouterr().err
    assert f"IoT policy {OURS.iot_policy} must be attached to the fleet's certificates only" in told
    assert "stranger" in told


def test_client_devices_are_listed_and_swept_with_their_certificates(
    twin: TwinState,
    stages: Path,
    client: Clients,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in twin.environment().items():
        monkeypatch.setenv(name, value)
    iot = client("iot")
    iot.create_thing(thingName="camera", attributePayload={"attributes": {"edgewright-registry": OURS.client_group}})
    iot.create_policy(policyName=OURS.client_policy, policyDocument='{"Version": "2012-10-17", "Statement": []}')
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName=OURS.client_policy, target=made["certificateArn"])
    iot.attach_thing_principal(thingName="camera", principal=made["certificateArn"])
    try:
        left = {"things": ["camera"], "certificates": [made["certificateId"]], "IoT policies": [OURS.client_policy]}
        assert run(stages, "lab", capsys) == (1, left)

        inventory.main(["--stage", "lab", "--config", str(stages), "--sweep", "--json"])

        assert json.loads(capsys.readouterr().out) == {"IoT policies": [OURS.client_policy]}
    finally:
        iot.delete_policy(policyName=OURS.client_policy)
