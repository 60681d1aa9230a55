"""A device trades a claim certificate for its own over MQTT, with the stage's own template, hook and policies."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.synthesis import template
from tests.twin.conftest import Clients, handlers_zip, settle
from tests.twin_greengrass.device import Device, Message, Session, connected
from tests.twin_greengrass.started_cloud import Cloud
from twin.state import TwinState

ROOT = Path(__file__).resolve().parents[2]
STACK, BUCKET, GROUP, NAME = "claims", "hook-code", "edgewright-twin", "edgewright-twin-claim"
CREATE = "$aws/certificates/create/json"
FROM_REQUEST = "$aws/certificates/create-from-csr/json"
PROVISION = f"$aws/provisioning-templates/{NAME}/provision/json"
#: Of the Provisioning stack; the rest is the custom resource of fleet indexing.
KEPT = ("ProvisioningClaimPolicy", "ProvisioningHook", "ProvisioningRole", "ProvisioningTemplate")


def provisioning_template() -> dict[str, Any]:
    """What concerns provisioning of three stacks, with the hook's code in a bucket of the test's own."""
    found = template("twin", "Provisioning")["Resources"]
    kept = {name: each for name, each in found.items() if name.startswith(KEPT)}
    fleet = template("twin", "Fleet")["Resources"]
    kept |= {name: each for name, each in fleet.items() if name in ("ThingType", "ThingGroup")}
    for each in kept.values():
        if each["Type"] == "AWS::Lambda::Function":
            each["Properties"] = {**each["Properties"], "Code": {"S3Bucket": BUCKET, "S3Key": "hook.zip"}}
    document = template("twin", "Identity")["Resources"]
    (policy,) = [each["Properties"] for each in document.values() if each["Type"] == "AWS::IoT::Policy"]
    kept["CorePolicy"] = {"Type": "AWS::IoT::Policy", "Properties": policy}
    return {"Resources": kept}


@pytest.fixture(scope="module")
def claim(twin: TwinState, client: Clients, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device with a claim certificate, and nothing else."""
    iot, s3, cloudformation = client("iot"), client("s3"), client("cloudformation")
    folder = tmp_path_factory.mktemp("claim")
    with ExitStack() as clean:
        s3.create_bucket(Bucket=BUCKET)
        clean.callback(s3.delete_bucket, Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="hook.zip", Body=handlers_zip())
        clean.callback(s3.delete_object, Bucket=BUCKET, Key="hook.zip")
        body = json.dumps(provisioning_template())
        cloudformation.create_stack(StackName=STACK, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
        clean.callback(cloudformation.delete_stack, StackName=STACK)
        clean.callback(_remove_devices, iot)
        stack = settle(cloudformation, STACK)
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.attach_policy(policyName=NAME, target=made["certificateArn"])
        (folder / "cert.pem").write_text(made["certificatePem"])
        (folder / "key.pem").write_text(made["keyPair"]["PrivateKey"])
        endpoint = iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
        yield Device(Cloud(twin), str(uuid.uuid4()), made["certificateArn"], folder, endpoint, "")


def _remove_devices(iot: Any) -> None:
    for policy in (NAME, "edgewright-twin-core-device"):
        for target in iot.list_targets_for_policy(policyName=policy)["targets"]:
            iot.detach_policy(policyName=policy, target=target)
            for thing in iot.list_principal_things(principal=target)["things"]:
                iot.detach_thing_principal(thingName=thing, principal=target)
            identifier = target.rpartition("/")[2]
            iot.update_certificate(certificateId=identifier, newStatus="INACTIVE")
            iot.delete_certificate(certificateId=identifier)
    for thing in iot.list_things_in_thing_group(thingGroupName=GROUP)["things"]:
        iot.delete_thing(thingName=thing)


@pytest.fixture
def session(claim: Device) -> Iterator[Session]:
    with connected(claim, jobs=False) as connection:
        for call in (CREATE, FROM_REQUEST, PROVISION):
            for answer in ("accepted", "rejected"):
                connection.subscribe(f"{call}/{answer}")
        yield connection


def register(client: Clients, thing: str, registry: str = GROUP) -> None:
    attributes = {"attributes": {"edgewright-registry": registry}}
    client("iot").create_thing(thingName=thing, thingTypeName="edgewright-twin-core", attributePayload=attributes)
    client("iot").add_thing_to_thing_group(thingGroupName=GROUP, thingName=thing)


def provision(session: Session, **parameters: Any) -> tuple[dict[str, Any], Message]:
    """Ask for keys and provision them; returns the keys and the last answer."""
    keys = session.call(CREATE, {}).document
    token = keys["certificateOwnershipToken"]
    return keys, session.call(PROVISION, {"certificateOwnershipToken": token, "parameters": parameters})


def test_a_registered_device_gets_a_certificate_that_works(
    claim: Device, client: Clients, session: Session, tmp_path: Path
) -> None:
    register(client, "edgewright-twin-line-1")

    keys, answer = provision(session, SerialNumber="line-1")

    assert answer.topic.endswith("/accepted"), answer.document
    assert answer.document["thingName"] == "edgewright-twin-line-1"
    iot = client("iot")
    certificate = iot.describe_certificate(certificateId=keys["certificateId"])["certificateDescription"]
    assert certificate["status"] == "ACTIVE"
    policies = iot.list_attached_policies(target=certificate["certificateArn"])["policies"]
    assert [policy["policyName"] for policy in policies] == ["edgewright-twin-core-device"]
    thing = iot.describe_thing(thingName="edgewright-twin-line-1")
    assert thing["attributes"] == {"edgewright-registry": GROUP}
    (tmp_path / "cert.pem").write_text(keys["certificatePem"])
    (tmp_path / "key.pem").write_text(keys["privateKey"])
    with connected(replace(claim, thing="edgewright-twin-line-1", folder=tmp_path), jobs=False) as own:
        own.subscribe("edgewright/twin/digits/request")


def test_a_registered_device_joins_with_a_key_that_never_leaves_it(
    claim: Device, client: Clients, session: Session, tmp_path: Path
) -> None:
    register(client, "edgewright-twin-line-csr")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "line-csr")])
    signed = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    request = {"certificateSigningRequest": signed.public_bytes(Encoding.PEM).decode()}

    made = session.call(FROM_REQUEST, request)
    token = {"certificateOwnershipToken": made.document["certificateOwnershipToken"]}
    joined = session.call(PROVISION, {**token, "parameters": {"SerialNumber": "line-csr"}})
    again = session.call(PROVISION, {**token, "parameters": {"SerialNumber": "line-csr"}})

    assert set(made.document) == {"certificateId", "certificatePem", "certificateOwnershipToken"}
    assert (joined.topic.endswith("/accepted"), again.topic.endswith("/rejected")) == (True, True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "cert.pem").write_text(made.document["certificatePem"])
    (tmp_path / "key.pem").write_bytes(private)
    with connected(replace(claim, thing="edgewright-twin-line-csr", folder=tmp_path), jobs=False) as own:
        own.subscribe("edgewright/twin/digits/request")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({}, "InvalidPayload"),
        ({"certificateSigningRequest": 5}, "InvalidPayload"),
        ({"certificateSigningRequest": "no PEM"}, "InvalidCertificateSigningRequest"),
    ],
)
def test_a_signing_request_that_is_none_is_rejected(session: Session, request_: dict[str, Any], code: str) -> None:
    answer = session.call(FROM_REQUEST, request_)

    assert (answer.topic.endswith("/rejected"), answer.document["errorCode"]) == (True, code)


def test_a_device_joins_once(client: Clients, session: Session) -> None:
    register(client, "edgewright-twin-line-2")

    first, second = (provision(session, SerialNumber="line-2")[1] for _attempt in range(2))

    assert first.topic.endswith("/accepted"), first.document
    assert (second.topic.endswith("/rejected"), second.document["errorCode"]) == (True, "AccessDenied")


def test_an_ownership_token_makes_one_thing(client: Clients, session: Session) -> None:
    for name in ("token-1", "token-2"):
        register(client, f"edgewright-twin-{name}")
    token = session.call(CREATE, {}).document["certificateOwnershipToken"]

    first, second = (
        session.call(PROVISION, {"certificateOwnershipToken": token, "parameters": {"SerialNumber": name}})
        for name in ("token-1", "token-2")
    )

    assert first.topic.endswith("/accepted"), first.document
    assert (second.topic.endswith("/rejected"), second.document["errorCode"]) == (True, "AccessDenied")
    assert client("iot").list_thing_principals(thingName="edgewright-twin-token-2")["principals"] == []


@pytest.mark.parametrize(
    "parameters",
    [{"SerialNumber": "unknown"}, {"SerialNumber": "edge-server"}, {"SerialNumber": "../x"}, {"SerialNumber": 5}, {}],
)
def test_a_device_that_is_not_registered_stays_out(
    client: Clients, session: Session, parameters: dict[str, Any]
) -> None:
    keys, answer = provision(session, **parameters)

    assert (answer.topic.endswith("/rejected"), answer.document["errorCode"]) == (True, "AccessDenied")
    found = client("iot").describe_certificate(certificateId=keys["certificateId"])
    assert found["certificateDescription"]["status"] == "PENDING_ACTIVATION"


def test_a_thing_of_another_register_stays_as_it_is(client: Clients, session: Session) -> None:
    register(client, "edgewright-twin-foreign", registry="edgewright-prod")

    _keys, answer = provision(session, SerialNumber="foreign")

    assert answer.document["errorCode"] == "AccessDenied"
    assert client("iot").list_thing_principals(thingName="edgewright-twin-foreign")["principals"] == []


def test_a_request_without_a_token_is_refused(session: Session) -> None:
    answer = session.call(PROVISION, {"parameters": {"SerialNumber": "line-1"}})

    assert answer.document["errorCode"] == "InvalidCertificateOwnershipToken"
