"""Device protocol, credentials and S3: both behind port 443 of AWS's names, through the proxy."""

from __future__ import annotations

import json
import re
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.twin_greengrass.device import Device
from tests.twin_greengrass.started_cloud import REGION, Cloud

ARTIFACT = {"Bucket": "artifacts", "Key": "code/app.zip"}


def trust(service: str) -> str:
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": service}}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def make_alias(
    cloud: Cloud, service: str = "credentials.iot.amazonaws.com", *, s3_rights: bool = True, **more: Any
) -> str:
    name = f"alias-{uuid.uuid4().hex[:8]}"
    role = cloud.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=trust(service))["Role"]
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    if s3_rights:
        cloud.client("iam").put_role_policy(RoleName=name, PolicyName="s3", PolicyDocument=json.dumps(allowed))
    cloud.client("iot").create_role_alias(roleAlias=name, roleArn=role["Arn"], **more)
    return name


def test_a_device_takes_credentials_of_the_role(cloud: Cloud, device: Device) -> None:
    answer = device.credentials(make_alias(cloud, credentialDurationSeconds=900))

    assert answer.status_code == 200
    credentials = answer.json()["credentials"]
    assert sorted(credentials) == ["accessKeyId", "expiration", "secretAccessKey", "sessionToken"]
    assert len(credentials["accessKeyId"]) == 20
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", credentials["expiration"])
    left = datetime.fromisoformat(credentials["expiration"]) - datetime.now(UTC)
    assert 600 < left.total_seconds() <= 900


def test_credentials_are_refused_for_a_reason(cloud: Cloud, device: Device) -> None:
    alias = make_alias(cloud)
    assert device.credentials("no-such-alias").status_code == 404
    assert device.credentials(alias, "another-thing").status_code == 403
    untrusted = device.credentials(make_alias(cloud, "ec2.amazonaws.com"))
    assert untrusted.status_code == 403
    assert "trust policy" in untrusted.json()["message"]
    with device.https(certificate=False) as client:
        assert client.get(f"https://{device.credential_host}/role-aliases/{alias}/credentials").status_code == 403
    with device.https() as client:
        assert client.get(f"https://{device.credential_host}/etc/passwd").status_code == 400
        assert client.post(f"https://{device.credential_host}/role-aliases/{alias}/credentials").status_code == 405


def test_a_role_alias_is_described_updated_and_deleted(cloud: Cloud) -> None:
    iot, alias = cloud.client("iot"), make_alias(cloud)

    iot.update_role_alias(roleAlias=alias, credentialDurationSeconds=1800)

    assert alias in iot.list_role_aliases()["roleAliases"]
    description = iot.describe_role_alias(roleAlias=alias)["roleAliasDescription"]
    assert description["credentialDurationSeconds"] == 1800
    assert description["roleAliasArn"] == f"arn:aws:iot:{REGION}:000000000000:rolealias/{alias}"
    with pytest.raises(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_role_alias(roleAlias=alias, roleArn=description["roleArn"])
    with pytest.raises(iot.exceptions.InvalidRequestException):
        iot.update_role_alias(roleAlias=alias, roleArn="not an ARN of a role at all")
    iot.delete_role_alias(roleAlias=alias)
    with pytest.raises(iot.exceptions.ResourceNotFoundException):
        iot.describe_role_alias(roleAlias=alias)


def s3_of(device: Device, alias: str) -> Any:
    """S3 as a component on the device uses it: AWS's host names, the device's credentials, the proxy."""
    keys = device.credentials(alias).json()["credentials"]
    authority = device.folder / "ca.pem"
    authority.write_text(device.cloud.authority())
    proxy = f"http://127.0.0.1:{device.cloud.proxy_port}"
    return boto3.client(
        "s3",
        region_name=REGION,
        endpoint_url=f"https://s3.{REGION}.amazonaws.com",
        aws_access_key_id=keys["accessKeyId"],
        aws_secret_access_key=keys["secretAccessKey"],
        aws_session_token=keys["sessionToken"],
        verify=str(authority),
        config=Config(
            proxies={"https": proxy},
            s3={"addressing_style": "virtual"},
            signature_version="s3v4",
            retries={"max_attempts": 1},
            read_timeout=30,
        ),
    )


def test_an_artifact_comes_from_the_virtual_host_of_its_bucket(cloud: Cloud, device: Device) -> None:
    s3 = s3_of(device, make_alias(cloud))

    assert s3.get_object(Bucket="artifacts", Key="code/app.zip")["Body"].read() == b"an artifact"
    assert s3.get_object(Bucket="artifacts", Key="code/app.zip", Range="bytes=3-5")["Body"].read() == b"art"
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket="artifacts", Key="missing")
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_a_device_writes_below_its_own_name_and_no_others(cloud: Cloud, device: Device) -> None:
    alias = make_alias(cloud, s3_rights=False)
    own = "arn:aws:s3:::artifacts/captures/${credentials-iot:ThingName}/*"
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": own}]}
    cloud.client("iam").put_role_policy(RoleName=alias, PolicyName="own", PolicyDocument=json.dumps(allowed))
    s3 = s3_of(device, alias)

    s3.put_object(Bucket="artifacts", Key=f"captures/{device.thing}/digits/1.jsonl", Body=b"{}")

    for key in ("captures/another/digits/1.jsonl", "captures/1.jsonl", f"captures/{device.thing}", "captures//1.jsonl"):
        with pytest.raises(ClientError) as refused:
            s3.put_object(Bucket="artifacts", Key=key, Body=b"{}")
        assert refused.value.response["Error"]["Code"] == "AccessDenied"


@pytest.mark.parametrize(
    ("condition", "given"),
    [
        ({"StringEquals": {"aws:SourceAccount": "000000000000"}}, True),
        ({"StringEquals": {"aws:SourceAccount": "111111111111"}}, False),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:iot:us-east-1:000000000000:rolealias/alias-*"}}, True),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:iot:us-east-1:000000000000:rolealias/other"}}, False),
    ],
)
def test_a_trust_policy_may_ask_for_whose_sake_its_role_is_taken(
    cloud: Cloud, device: Device, condition: dict[str, Any], given: bool
) -> None:
    alias, policy = make_alias(cloud), json.loads(trust("credentials.iot.amazonaws.com"))
    policy["Statement"][0]["Condition"] = condition
    cloud.client("iam").update_assume_role_policy(RoleName=alias, PolicyDocument=json.dumps(policy))

    assert device.credentials(alias).status_code == (200 if given else 403)


def test_a_large_object_passes_in_both_directions(cloud: Cloud, device: Device) -> None:
    s3, body = s3_of(device, make_alias(cloud)), b"0123456789abcdef" * (1 << 19)

    s3.put_object(Bucket="artifacts", Key="large", Body=body)

    assert s3.get_object(Bucket="artifacts", Key="large")["Body"].read() == body


def test_a_forwarded_connection_is_closed_after_its_answer(cloud: Cloud, device: Device) -> None:
    url = urlsplit(s3_of(device, make_alias(cloud)).generate_presigned_url("get_object", Params=ARTIFACT))
    plain = socket.create_connection(("127.0.0.1", device.cloud.front_port), timeout=30)
    host = f"artifacts.s3.{REGION}.amazonaws.com"
    with device.tls().wrap_socket(plain, server_hostname=host) as connection:
        connection.settimeout(30)  # half of what the front gives an idle connection
        target = f"{url.path}?{url.query}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk

    assert answer.endswith(b"an artifact")


def test_no_forwarded_connection_lingers(cloud: Cloud, device: Device) -> None:
    s3, process = s3_of(device, make_alias(cloud)), psutil.Process(cloud.state.pid)
    for _ in range(5):
        s3.get_object(Bucket="artifacts", Key="code/app.zip")["Body"].read()
    s3.close()

    def forwarded() -> int:
        ports = (cloud.state.gateway_port, cloud.front_port)
        return sum(bool(each.raddr) and each.raddr.port in ports for each in process.net_connections("tcp"))

    deadline = time.monotonic() + 30
    while forwarded() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert forwarded() == 0


def test_the_front_needs_a_host(device: Device) -> None:
    plain = socket.create_connection(("127.0.0.1", device.cloud.front_port), timeout=30)
    with device.tls().wrap_socket(plain, server_hostname=device.data_host) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
