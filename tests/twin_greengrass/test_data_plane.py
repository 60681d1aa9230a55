"""Device protocol, data plane: thing groups and component resolution over mTLS through the proxy."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.twin_greengrass.device import Device, make_device
from tests.twin_greengrass.started_cloud import Cloud

RESOLVE = "/greengrass/v2/resolveComponentCandidates"
LINUX = {"name": "linux", "attributes": {"runtime": "aws_nucleus_lite", "os": "linux", "architecture": "amd64"}}


def candidate(name: str, **requirements: str) -> dict[str, Any]:
    wanted = {"componentName": name, "versionRequirements": requirements}
    return {"componentCandidates": [wanted], "platform": LINUX}


def test_a_device_learns_its_thing_groups(device: Device, group: str, group_arn: str) -> None:
    answer = device.thing_groups()

    assert answer.status_code == 200
    assert answer.json() == {"thingGroups": [{"thingGroupArn": group_arn, "thingGroupName": group}]}


def test_another_things_groups_are_refused(cloud: Cloud, device: Device, tmp_path: Path) -> None:
    other = make_device(cloud, tmp_path / "other")

    answer = device.thing_groups(other.thing)

    assert answer.status_code == 403
    assert other.thing in answer.json()["message"]


def test_a_certificate_that_is_not_active_is_refused(cloud: Cloud, device: Device) -> None:
    certificate_id = device.certificate_arn.rsplit("/", 1)[-1]
    cloud.client("iot").update_certificate(certificateId=certificate_id, newStatus="INACTIVE")

    assert device.thing_groups().status_code == 403


def test_a_certificate_without_a_thing_is_refused(cloud: Cloud, device: Device) -> None:
    cloud.client("iot").detach_thing_principal(thingName=device.thing, principal=device.certificate_arn)

    assert device.thing_groups().status_code == 403
    assert device.data("POST", RESOLVE, json=candidate("x")).status_code == 403


def test_no_certificate_is_refused(device: Device) -> None:
    with device.https(certificate=False) as client:
        answer = client.get(f"https://{device.data_host}:8443/greengrass/v2/coreDevices/{device.thing}/thingGroups")

    assert answer.status_code == 403


def test_a_candidate_is_resolved_to_its_canonical_recipe(
    device: Device, component: Callable[..., dict[str, Any]]
) -> None:
    made = component()

    answer = device.data("POST", RESOLVE, json=candidate(made["componentName"], requirements="1.0.0"))

    assert answer.status_code == 200
    (resolved,) = answer.json()["resolvedComponentVersions"]
    recipe = json.loads(base64.b64decode(resolved.pop("recipe")))
    assert resolved == {
        "arn": made["arn"],
        "componentName": made["componentName"],
        "componentVersion": "1.0.0",
        "vendorGuidance": "ACTIVE",
    }
    (artifact,) = recipe["Manifests"][0]["Artifacts"]
    assert artifact["Uri"] == "s3://artifacts/code/app.zip"
    assert artifact["Algorithm"] == "SHA-256"
    # echo -n 'an artifact' | openssl dgst -sha256 -binary | base64
    assert artifact["Digest"] == "MmCGpdVC+7P3g8TZGCsxiMrs1xTQLWwQy96pguK/xAk="
    assert recipe["ComponentConfiguration"] == {"DefaultConfiguration": {"uri": "keep"}}


def test_the_highest_version_that_meets_every_requirement_is_chosen(
    device: Device, component: Callable[..., dict[str, Any]]
) -> None:
    name = component()["componentName"]
    for version in ("1.2.0", "1.10.0", "2.0.0"):
        component(version, name=name)

    def resolved(**requirements: str) -> str:
        answer = device.data("POST", RESOLVE, json=candidate(name, **requirements)).json()
        return str(answer["resolvedComponentVersions"][0]["componentVersion"])

    assert resolved() == "2.0.0"
    assert resolved(a=">=1.0.0 <2.0.0") == "1.10.0"
    assert resolved(a="^1.0.0", b="<1.10.0") == "1.2.0"


@pytest.mark.parametrize("requirement", ["=9.9.9", ">=3.0.0"])
def test_what_cannot_be_resolved_is_not_found(
    device: Device, component: Callable[..., dict[str, Any]], requirement: str
) -> None:
    name = component()["componentName"]

    answer = device.data("POST", RESOLVE, json=candidate(name, a=requirement))

    assert answer.status_code == 404
    assert answer.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert "versions: 1.0.0" in answer.json()["message"]


def test_a_manifest_for_another_platform_is_not_found(device: Device, component: Callable[..., dict[str, Any]]) -> None:
    made = component(Manifests=[{"Platform": {"os": "linux", "architecture": "aarch64", "runtime": "*"}}])
    classic_only = component(Manifests=[{"Platform": {"os": "linux"}}])

    for name in (made["componentName"], classic_only["componentName"]):
        assert device.data("POST", RESOLVE, json=candidate(name)).status_code == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"componentCandidates": 5}', "componentCandidates"),
        (json.dumps(candidate("x", a="what?")).encode(), "version requirement"),
    ],
)
def test_a_malformed_request_is_a_validation_error(device: Device, body: bytes, said: str) -> None:
    answer = device.data("POST", RESOLVE, content=body)

    assert answer.status_code == 400
    assert said in answer.json()["message"]


def test_an_artifact_has_a_location_that_needs_no_credentials(
    device: Device, component: Callable[..., dict[str, Any]]
) -> None:
    arn = component()["arn"]

    answer = device.data("GET", f"/greengrass/v2/components/{quote(arn, safe='')}/artifacts/app.zip")

    assert answer.status_code == 200, answer.text
    with device.https(certificate=False) as client:
        assert client.get(answer.json()["preSignedUrl"]).content == b"an artifact"
    missing = device.data("GET", f"/greengrass/v2/components/{quote(arn, safe='')}/artifacts/other.zip")
    assert missing.status_code == 404


def test_what_is_not_there_is_not_found(device: Device) -> None:
    assert device.data("GET", "/greengrass/v2/nothing").status_code == 404
    artifact = "/greengrass/v2/components/arn:aws:greengrass:us-east-1:aws:components:x:versions:1.0.0/artifacts/a.zip"
    assert device.data("GET", artifact).status_code == 404


def _spoken(device: Device, raw: bytes) -> bytes:
    """What the listener answers to bytes that no HTTP client would send."""
    plain = socket.create_connection(("127.0.0.1", device.cloud.data_port), timeout=30)
    with device.tls().wrap_socket(plain, server_hostname=device.data_host) as connection:
        connection.settimeout(30)
        answer = b""
        try:
            connection.sendall(raw)
            while chunk := connection.recv(4096):
                answer += chunk
        except (ConnectionError, ssl.SSLError):
            pass
        return answer


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01garbage\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n\r\n", b"400"),
    ],
)
def test_a_hostile_request_gets_a_4xx_and_the_listener_lives(device: Device, raw: bytes, status: bytes) -> None:
    answer = _spoken(device, raw)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert device.thing_groups().status_code == 200


def test_a_peer_that_speaks_no_tls_is_dropped(device: Device) -> None:
    with socket.create_connection(("127.0.0.1", device.cloud.data_port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(100)
    assert device.thing_groups().status_code == 200


def test_a_device_asks_again_on_the_same_connection(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://{device.data_host}:8443/greengrass/v2/coreDevices/{device.thing}/thingGroups"
    handshakes: list[str] = []
    wrapped = ssl.SSLContext.wrap_socket

    def wrap(context: ssl.SSLContext, *args: Any, **options: Any) -> ssl.SSLSocket:
        handshakes.append(options["server_hostname"])
        return wrapped(context, *args, **options)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    with device.https() as client:
        answers = [client.get(url), client.get(url.replace(device.thing, "another")), client.get(url)]
        last = client.get(url, headers={"Connection": "close"})

    assert [answer.status_code for answer in answers] == [200, 403, 200]
    assert last.headers["connection"] == "close"
    assert handshakes == [device.data_host]


def test_a_certificate_is_looked_at_with_each_request_of_a_connection(cloud: Cloud, device: Device) -> None:
    url = f"https://{device.data_host}:8443/greengrass/v2/coreDevices/{device.thing}/thingGroups"
    with device.https() as client:
        first = client.get(url)
        certificate_id = device.certificate_arn.rsplit("/", 1)[-1]
        cloud.client("iot").update_certificate(certificateId=certificate_id, newStatus="INACTIVE")
        second = client.get(url)

    assert [first.status_code, second.status_code] == [200, 403]


def test_a_connection_ends_once_it_is_idle_or_has_more_than_was_asked(device: Device) -> None:
    get = f"GET /greengrass/v2/coreDevices/{device.thing}/thingGroups HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    post = f"POST {RESOLVE} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n".encode()

    # Both read to the end of the connection, which nobody asks for; what comes behind a body is no request.
    assert _spoken(device, get).count(b"HTTP/1.1 200") == 1
    behind = _spoken(device, post + b"{}" + get)
    assert behind.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in behind


def test_the_key_of_the_cloud_s_listeners_is_quick_to_sign_with(device: Device) -> None:
    plain = socket.create_connection(("127.0.0.1", device.cloud.data_port), timeout=30)
    with device.tls().wrap_socket(plain, server_hostname=device.data_host) as connection:
        certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")

    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    own = x509.load_pem_x509_certificate((device.folder / "cert.pem").read_bytes())
    assert isinstance(own.public_key(), rsa.RSAPublicKey)
