"""Who is let in at the gateway, tried from a browser's page, by another user of the machine, and by the device port."""

from __future__ import annotations

import http.client
import json
import ssl
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.twin.conftest import Clients, trust, wait_until
from twin.files import private_folder
from twin.state import TwinState

LIMIT_S = 30
DEVICE_HOST = "s3.us-east-1.amazonaws.com"

Answer = tuple[int, dict[str, str], bytes]


def ask(
    twin: TwinState, method: str, path: str, headers: dict[str, str], body: bytes = b"", *, by_device: bool = False
) -> Answer:
    """One request as a hostile client would write it; nothing is added but the length."""
    connection: http.client.HTTPConnection
    if by_device:
        context = ssl._create_unverified_context()  # noqa: S323 - the name is not the address'
        connection = http.client.HTTPSConnection("127.0.0.1", twin.front_port, timeout=LIMIT_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", twin.gateway_port, timeout=LIMIT_S)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1", "replace"))
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def signed(
    method: str, url: str, key: str, secret: str, token: str = "", *, service: str = "s3", body: bytes = b""
) -> dict[str, str]:
    """The headers of a request that is signed with these credentials."""
    request = AWSRequest(method, url, data=body)
    SigV4Auth(Credentials(key, secret, token or None), service, "us-east-1").add_auth(request)
    return dict(request.headers.items())


@pytest.fixture(scope="module")
def kept(client: Clients) -> Iterator[dict[str, Any]]:
    """What nobody may read or change: an object and a parameter."""
    s3, ssm = client("s3"), client("ssm")
    s3.create_bucket(Bucket="doors")
    s3.put_object(Bucket="doors", Key="kept", Body=b"a secret of the account")
    ssm.put_parameter(Name="/doors/kept", Value="a secret of the account", Type="String")
    yield {"bucket": "doors"}
    s3.delete_object(Bucket="doors", Key="kept")
    s3.delete_bucket(Bucket="doors")
    ssm.delete_parameter(Name="/doors/kept")


def gateway(twin: TwinState) -> str:
    return f"127.0.0.1:{twin.gateway_port}"


def test_the_secret_is_the_twins_own_and_the_well_known_ones_are_nobodys(twin: TwinState) -> None:
    assert len(twin.secret) >= 40
    assert twin.environment()["AWS_SECRET_ACCESS_KEY"] == twin.secret
    assert twin.secret not in repr(twin)
    assert (twin.home / "state.json").stat().st_mode & 0o077 == 0

    for key, secret in ((twin.account, "twin"), (twin.account, "test"), ("test", "test"), ("999999999999", "test")):
        for service, call in (("s3", "list_buckets"), ("iot", "list_things"), ("cloudformation", "list_stacks")):
            arguments = {**twin.client_arguments(), "aws_access_key_id": key, "aws_secret_access_key": secret}
            with pytest.raises(ClientError) as refused:
                getattr(boto3.client(service, **arguments), call)()
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403)


def test_a_function_of_the_account_cannot_be_run_from_a_page(twin: TwinState) -> None:
    path = "/2015-03-31/functions"
    for headers in (
        {"Host": "attacker.example", "Origin": "http://attacker.example"},
        {"Host": gateway(twin), "Origin": "http://attacker.example"},
        {"Host": gateway(twin), "Sec-Fetch-Site": "cross-site"},
        {"Host": gateway(twin), "Origin": "null", **signed("POST", f"http://{gateway(twin)}{path}", "test", "test")},
    ):
        status, answered, _ = ask(twin, "POST", path, headers, b"{}")
        assert (status, answered["x-twin-refused"]) == (403, "1")


def test_the_operators_own_request_is_refused_when_a_page_sends_it(twin: TwinState) -> None:
    headers = signed("GET", f"http://{gateway(twin)}/", twin.account, twin.secret)

    assert ask(twin, "GET", "/", {"Host": gateway(twin), **headers})[0] == 200
    assert ask(twin, "GET", "/", {"Host": gateway(twin), **headers, "Origin": "http://page.example"})[0] == 403


def test_a_preflight_gets_no_permission_and_no_answer_has_one(twin: TwinState) -> None:
    host = {"Host": gateway(twin)}
    asked = {"Origin": "http://attacker.example", "Access-Control-Request-Method": "PUT"}
    answers = [
        ask(twin, "OPTIONS", "/doors/kept", {**host, **asked}),
        ask(twin, "OPTIONS", "/", host),
        ask(twin, "GET", "/", {**host, **signed("GET", f"http://{gateway(twin)}/", twin.account, twin.secret)}),
        ask(twin, "GET", "/_ministack/ready", host),
    ]

    assert [status for status, _, _ in answers] == [403, 403, 200, 200]
    assert not [name for _, headers, _ in answers for name in headers if name.startswith("access-control-")]


def test_the_twins_own_paths_are_the_operators(twin: TwinState, kept: dict[str, Any], client: Clients) -> None:
    url, host = f"http://{gateway(twin)}", {"Host": gateway(twin)}
    guarded = ("/_ministack/reset", "/_ministack/config", "/_ministack/lambda-code/x", "/_ministack/health", "/health")

    for path in guarded:
        for method in ("GET", "POST", "PUT"):
            forged = signed(method, url + path, twin.account, "not the secret")
            assert ask(twin, method, path, host)[0] == 403
            assert ask(twin, method, path, {**host, **forged})[0] == 403
    assert client("s3").get_object(Bucket=kept["bucket"], Key="kept")["Body"].read() == b"a secret of the account"
    own = signed("GET", f"{url}/_ministack/health", twin.account, twin.secret)
    assert ask(twin, "GET", "/_ministack/health", {**host, **own})[0] == 200


def test_a_signature_is_for_its_request_and_its_body(twin: TwinState) -> None:
    url, host = f"http://{gateway(twin)}", {"Host": gateway(twin)}
    body = b"Action=ListUsers&Version=2010-05-08"
    headers = {**host, **signed("POST", url + "/", twin.account, twin.secret, service="iam", body=body)}

    assert ask(twin, "POST", "/", headers, body)[0] == 200
    assert ask(twin, "POST", "/", headers, b"Action=ListRoles&Version=2010-05-08")[0] == 403
    assert ask(twin, "POST", "/x", headers, body)[0] == 403


def test_the_device_port_serves_a_role_and_neither_the_operator_nor_the_twins_paths(
    twin: TwinState, client: Clients, kept: dict[str, Any]
) -> None:
    iam, s3 = client("iam"), client("s3")
    iam.create_role(RoleName="doors-device", AssumeRolePolicyDocument=json.dumps(trust("lambda.amazonaws.com")))
    try:
        iam.update_assume_role_policy(RoleName="doors-device", PolicyDocument=_trusting(twin.account))
        allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{kept['bucket']}/kept"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_role_policy(RoleName="doors-device", PolicyName="read", PolicyDocument=document)
        arn = f"arn:aws:iam::{twin.account}:role/doors-device"
        taken = client("sts").assume_role(RoleArn=arn, RoleSessionName="device")["Credentials"]
        keys = (taken["AccessKeyId"], taken["SecretAccessKey"], taken["SessionToken"])

        def by_device(method: str, path: str, *credentials: str) -> Answer:
            headers = signed(method, f"https://{DEVICE_HOST}{path}", *credentials)
            return ask(twin, method, path, {"Host": DEVICE_HOST, **headers}, by_device=True)

        assert by_device("GET", "/doors/kept", *keys)[::2] == (200, b"a secret of the account")
        # Also without TWIN_AUTH=1: what the role does not allow.
        assert by_device("DELETE", "/doors/kept", *keys)[0] == 403
        assert by_device("GET", "/", *keys)[0] == 403
        assert by_device("GET", "/doors/kept", twin.account, twin.secret)[0] == 403
        assert by_device("GET", "/_ministack/health", twin.account, twin.secret)[0] == 403
        assert by_device("GET", "/_ministack/ready", *keys)[0] == 403
        assert s3.get_object(Bucket="doors", Key="kept")["Body"].read() == b"a secret of the account"
    finally:
        iam.delete_role_policy(RoleName="doors-device", PolicyName="read")
        iam.delete_role(RoleName="doors-device")


def _trusting(account: str) -> str:
    principal = {"AWS": f"arn:aws:iam::{account}:root"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


PATHS = st.sampled_from(
    [
        "/",
        "/doors/kept",
        "/doors?list-type=2",
        "/2015-03-31/functions/",
        "/2015-03-31/functions/x/invocations",
        "/things",
        "/greengrass/v2/components",
        "/_ministack/reset",
        "/_ministack/config",
        "/_ministack/health",
        "/_ministack/lambda-code/000000000000/us-east-1/x",
        "/_ministack/sqs/messages",
        "/_ministack/eks-auth/x",
        "/_localstack/health",
        "/_aws/execute-api/x/y/z",
        "/oauth2/authorize",
        "/v2/",
        "/iceberg/v1/config",
        "/v20180820/bucket/doors",
        "/model/x/invoke",
        "/?Action=ListUsers&Version=2010-05-08",
        "/?Action=GetParameter&Name=/doors/kept",
        "//_ministack/reset",
        "/%5Fministack/reset",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=30).map("/".__add__)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
TARGETS = st.sampled_from(["AmazonSSM.GetParameter", "DynamoDB_20120810.ListTables", "TrentService.ListKeys", ""])
KEYS = st.sampled_from(["000000000000", "test", "", "AKIAIOSFODNN7EXAMPLE", "ASIA0000000000000000", "999999999999"])
SECRETS = st.sampled_from(["test", "twin", "", "000000000000"])
FROM = st.sampled_from(["page", "user", "device"])
BODIES = st.sampled_from([b"", b"{}", b'{"Name": "/doors/kept"}', b"Action=ListUsers&Version=2010-05-08"])


@st.composite
def forged(draw: st.DrawFn) -> tuple[str, str, str, dict[str, str], bytes]:
    """A request of somebody who does not know the secret: where from, method, path, headers, body."""
    come_from, method, path, body = draw(FROM), draw(METHODS), draw(PATHS), draw(BODIES)
    headers: dict[str, str] = {}
    if target := draw(TARGETS):
        headers["X-Amz-Target"] = target
        headers["Content-Type"] = "application/x-amz-json-1.1"
    key, how = draw(KEYS), draw(st.sampled_from(["none", "signed", "named", "sigv2", "presigned", "bearer", "token"]))
    service = draw(st.sampled_from(["s3", "iam", "ssm", "iot", "lambda", "execute-api"]))
    scope = f"{key}/20260101/us-east-1/{service}/aws4_request"
    match how:
        case "signed":
            headers |= signed(method, f"http://127.0.0.1{path}", key or "x", draw(SECRETS), service=service, body=body)
        case "named":
            headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"
        case "sigv2":
            headers["Authorization"] = f"AWS {key}:AAAA"
        case "presigned":
            joined = "&" if "?" in path else "?"
            path += (
                f"{joined}X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date=20260101T000000Z"
                "&X-Amz-Expires=604800&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
            )
        case "bearer":
            headers["Authorization"] = f"Bearer {key}"
        case "token":
            headers["X-Amz-Security-Token"] = key
    headers |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "X-Forwarded-Host": st.just("127.0.0.1"),
                "X-Forwarded-For": st.just("127.0.0.1"),
                "X-Http-Method-Override": METHODS,
                "Connection": st.sampled_from(["keep-alive", "close"]),
                "Cookie": st.text(st.characters(min_codepoint=97, max_codepoint=122), max_size=10),
            },
        )
    )
    if come_from == "page":
        headers |= draw(
            st.sampled_from(
                [
                    {"Origin": "http://attacker.example"},
                    {"Origin": "null"},
                    {"Sec-Fetch-Site": "cross-site"},
                    {"Host": "attacker.example"},
                    {"Host": "doors.s3.localhost", "Origin": "http://doors.s3.localhost"},
                    {"Host": "x.lambda-url.us-east-1.localhost"},
                    {"Host": "x.execute-api.localhost"},
                ]
            )
        )
    return come_from, method, path, headers, body


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=forged())
def test_no_request_without_the_secret_changes_or_reads_anything(
    twin: TwinState, client: Clients, kept: dict[str, Any], request: tuple[str, str, str, dict[str, str], bytes]
) -> None:
    come_from, method, path, headers, body = request
    host = DEVICE_HOST if come_from == "device" else gateway(twin)
    by_device = come_from == "device"

    status, answered, content = ask(twin, method, path, {"Host": host, **headers}, body, by_device=by_device)

    # 400: the server itself cannot read it.
    assert (answered.get("x-twin-refused"), status) == ("1", status) or status == 400, (status, content)
    assert status >= 400
    assert b"a secret" not in content
    assert not any(name.startswith("access-control-") for name in answered)


def test_all_is_as_it_was_after_them(kept: dict[str, Any], client: Clients) -> None:
    assert client("s3").get_object(Bucket=kept["bucket"], Key="kept")["Body"].read() == b"a secret of the account"
    assert client("ssm").get_parameter(Name="/doors/kept")["Parameter"]["Value"] == "a secret of the account"


def test_all_below_the_state_folder_is_its_owners_alone(twin: TwinState, kept: dict[str, Any]) -> None:
    assert kept
    wait_until(lambda: (twin.home / "state" / "iam.json").exists())

    assert [path for path in (twin.home, *twin.home.rglob("*")) if open_to_others(path)] == []


def open_to_others(path: Path) -> bool:
    """Whether others may do something with it; what the twin has replaced meanwhile is nobody's."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        return not stat.S_ISLNK(mode) and bool(mode & 0o077)
    return False


def test_a_folder_that_is_there_becomes_private_but_not_one_for_all(tmp_path: Path) -> None:
    there, for_all = tmp_path / "there", tmp_path / "for all"
    for folder, mode in ((there, 0o755), (for_all, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)

    private_folder(there)
    private_folder(for_all)

    assert there.stat().st_mode & 0o7777 == 0o700
    assert for_all.stat().st_mode & 0o7777 == 0o1777


def test_the_secret_is_in_no_environment_that_functions_inherit(twin: TwinState) -> None:
    children = psutil.Process(twin.pid).children(recursive=True)

    assert children  # the process that functions are copies of
    looked_at = 0
    for child in children:
        with suppress(psutil.NoSuchProcess):  # one that has just ended
            assert twin.secret not in child.environ().values()
            looked_at += 1
    assert looked_at
