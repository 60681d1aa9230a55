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
from botocore.exceptions import ClientError

from config.names import Names
from tests.app_copy import copy_app
from tools.offline_deploy import CdkError, OfflineDeploy
from twin import inventory, lifecycle
from twin.devices.identity import certificate_request
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
    state = lifecycle.start(folder / "twin", auth=True)
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


THING = "edgewright-twin-line-1"
BUCKET = NAMES.artifact_bucket("000000000000", "us-east-1")
#: Ways to act for another device, or to get the rights to; CERTIFICATE and ROLE are real ones.
WAYS: list[tuple[str, str, dict[str, Any]]] = [
    ("iot", "attach_thing_principal", {"thingName": THING, "principal": "CERTIFICATE"}),
    ("iot", "detach_thing_principal", {"thingName": NAMES.edge_server, "principal": "CERTIFICATE"}),
    ("iot", "attach_policy", {"policyName": NAMES.iot_policy, "target": "CERTIFICATE"}),
    ("iot", "detach_policy", {"policyName": NAMES.iot_policy, "target": "CERTIFICATE"}),
    ("iot", "create_keys_and_certificate", {"setAsActive": True}),
    ("iot", "create_certificate_from_csr", {"certificateSigningRequest": "REQUEST", "setAsActive": True}),
    ("iot", "update_certificate", {"certificateId": "0" * 64, "newStatus": "ACTIVE"}),
    ("iot", "delete_certificate", {"certificateId": "0" * 64, "forceDelete": True}),
    ("iot", "register_thing", {"templateBody": "{}"}),
    ("iot", "create_provisioning_claim", {"templateName": NAMES.claim}),
    ("iot", "create_policy_version", {"policyName": NAMES.iot_policy, "policyDocument": "{}", "setAsDefault": True}),
    ("iot", "update_thing", {"thingName": THING, "removeThingType": True}),
    ("iot", "delete_thing", {"thingName": THING}),
    ("iot", "add_thing_to_thing_group", {"thingGroupName": NAMES.thing_group, "thingName": THING}),
    ("iot", "create_job", {"jobId": "any", "targets": [f"arn:aws:iot:us-east-1:000000000000:thing/{THING}"]}),
    ("iot-data", "publish", {"topic": f"$aws/things/{THING}/shadow/update", "payload": b"{}"}),
    ("iot-data", "update_thing_shadow", {"thingName": THING, "payload": b"{}"}),
    ("greengrassv2", "create_deployment", {"targetArn": f"arn:aws:iot:us-east-1:000000000000:thing/{THING}"}),
    ("greengrassv2", "delete_core_device", {"coreDeviceThingName": THING}),
    ("lambda", "add_permission", {"FunctionName": NAMES.join_function, "StatementId": "s", "Action": "lambda:*"}),
    ("lambda", "update_function_configuration", {"FunctionName": NAMES.join_function, "Timeout": 9}),
    ("lambda", "update_function_code", {"FunctionName": NAMES.join_function, "ZipFile": b""}),
    ("lambda", "delete_function", {"FunctionName": NAMES.join_function}),
    ("sts", "assume_role", {"RoleArn": "ROLE", "RoleSessionName": "other"}),
    ("iam", "put_role_policy", {"RoleName": "any", "PolicyName": "p", "PolicyDocument": "{}"}),
    ("s3", "put_object", {"Bucket": BUCKET, "Key": "artifacts/any", "Body": b""}),
    ("s3", "get_object", {"Bucket": BUCKET, "Key": "models/any"}),
]
REFUSED = {"AccessDenied", "AccessDeniedException", "ForbiddenException", "UnauthorizedException"}


def test_the_servers_role_acts_for_no_other_device(stage: Stage) -> None:
    """Called on the running twin, which evaluates its policies, with credentials of the instance's own role."""
    iam = stage.client("iam")
    (profile,) = iam.list_instance_profiles()["InstanceProfiles"]
    (role,) = profile["Roles"]
    other = stage.client("iot").describe_role_alias(roleAlias=NAMES.role_alias)["roleAliasDescription"]["roleArn"]
    (certificate,) = stage.certificates()
    # The instance's own session cannot be had from outside; the role's rights are the same in any.
    trust = {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "sts:AssumeRole"}
    document = role["AssumeRolePolicyDocument"]
    widened = {**document, "Statement": [*document["Statement"], trust]}
    iam.update_assume_role_policy(RoleName=role["RoleName"], PolicyDocument=json.dumps(widened))
    keys = stage.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="i-0")["Credentials"]
    iam.update_assume_role_policy(RoleName=role["RoleName"], PolicyDocument=json.dumps(document))
    own = {
        **stage.state.client_arguments(),
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["SessionToken"],
    }
    real = {"CERTIFICATE": certificate, "ROLE": other, "REQUEST": signing_request()}

    codes = {}
    for service, operation, arguments in WAYS:
        given = {name: real.get(value, value) if isinstance(value, str) else value for name, value in arguments.items()}
        if operation == "add_permission":
            given["Principal"] = "*"
        try:
            getattr(boto3.client(service, **own), operation)(**given)
            codes[operation] = "done"
        except ClientError as exc:
            codes[operation] = exc.response["Error"]["Code"]

    assert len(codes) >= 20
    assert {operation: code for operation, code in codes.items() if code not in REFUSED} == {}
    answer = boto3.client("lambda", **own).invoke(FunctionName=NAMES.join_function, Payload=b"{}")
    assert answer["StatusCode"] == 200
    assert stage.certificates() == [certificate]


def signing_request() -> str:
    return certificate_request(THING)[1]


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


def test_a_policy_on_a_group_stops_a_destroy_before_a_device_goes_and_is_named(stage: Stage) -> None:
    stage.deploy.deploy()
    iot = stage.client("iot")
    target = iot.create_thing_group(thingGroupName="theirs")["thingGroupArn"]
    iot.attach_policy(policyName=NAMES.iot_policy, target=target)
    certificates = stage.certificates()

    with pytest.raises(CdkError):
        stage.deploy.destroy()

    told = (stage.deploy.out / "cdk-destroy.log").read_text()
    assert f"aws iot detach-policy --policy-name {NAMES.iot_policy} --target '{target}'" in " ".join(told.split())
    assert set(stage.certificates()) == set(certificates)
    assert iot.list_thing_principals(thingName=NAMES.edge_server)["principals"]
