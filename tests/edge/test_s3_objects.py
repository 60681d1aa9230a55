import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from edge_inference.__main__ import open_s3
from edge_inference.s3_objects import S3Objects, UploadError


class Service(ThreadingHTTPServer):
    """The token exchange and S3 on one port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.status = 200
        self.credentials = 0
        self.away = False
        self.expires = datetime.now(UTC) + timedelta(hours=1)


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "token":
            self.send_error(403)
            return
        self.server.credentials += 1
        body = {"AccessKeyId": "AKID", "SecretAccessKey": "secret", "Token": "session"}
        data = json.dumps({**body, "Expiration": self.server.expires.isoformat()}).encode()
        if self.server.away:
            data = b"null"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status == 200:
            self.server.objects[self.path] = body
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(self.server.status)
        self.end_headers()
        if self.server.status != 200:
            self.wfile.write(b"<Code>AccessDenied</Code>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def environment(service: Service) -> dict[str, str]:
    url = f"http://127.0.0.1:{service.server_port}"
    return {
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token",
    }


def test_writes_an_object_with_the_signature_that_botocore_makes(service: Service) -> None:
    S3Objects(environment(service)).put("bucket", "captures/a b/ü.jsonl", b"content")

    (path,) = service.objects
    assert path == "/bucket/captures/a%20b/%C3%BC.jsonl"
    assert service.headers["x-amz-content-sha256"] == hashlib.sha256(b"content").hexdigest()
    assert service.headers["x-amz-security-token"] == "session"
    signed = service.headers["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
    url = f"http://127.0.0.1:{service.server_port}{path}"
    request = AWSRequest("PUT", url, {name: service.headers[name] for name in signed}, b"content")
    request.context["timestamp"] = service.headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials("AKID", "secret", "session"), "s3", "eu-central-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert service.headers["authorization"].endswith(f"Signature={signer.signature(text, request)}")


def test_takes_credentials_once_until_they_are_about_to_expire(service: Service) -> None:
    objects = S3Objects(environment(service))
    objects.put("bucket", "1", b"")
    objects.put("bucket", "2", b"")
    assert service.credentials == 1

    service.expires = datetime.now(UTC) + timedelta(seconds=10)
    short = S3Objects(environment(service))
    short.put("bucket", "1", b"")
    short.put("bucket", "2", b"")
    assert service.credentials == 3


def test_a_device_that_has_no_credentials_at_the_moment_is_asked_again(service: Service) -> None:
    objects = S3Objects(environment(service))
    service.away = True
    with pytest.raises(UploadError, match=r"no credentials yet: the device reaches no cloud"):
        objects.put("bucket", "1", b"")

    service.away = False
    objects.put("bucket", "1", b"")
    assert service.objects == {"/bucket/1": b""}


@pytest.mark.parametrize(("status", "asked"), [(400, 2), (401, 2), (403, 2), (404, 1), (503, 1)])
def test_says_what_s3_refuses_and_asks_for_new_credentials_where_they_may_be_to_blame(
    service: Service, status: int, asked: int
) -> None:
    # An expired token is a 400 (ExpiredToken), as one is whose device has set its clock meanwhile.
    objects = S3Objects(environment(service))
    service.status = status

    with pytest.raises(UploadError, match=f"s3://bucket/key is refused with {status}: <Code>AccessDenied"):
        objects.put("bucket", "key", b"")

    service.status = 200
    objects.put("bucket", "key", b"")
    assert service.credentials == asked


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": ""}, "offers no token exchange"),
        ({"AWS_CONTAINER_AUTHORIZATION_TOKEN": "wrong"}, "no credentials from the device's token exchange"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}, "no credentials from the device's token"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "s3://bucket/key could not be written"),
        ({"AWS_ENDPOINT_URL_S3": "", "GG_ROOT_CA_PATH": "/nowhere"}, "s3://bucket/key could not be written"),
    ],
)
def test_names_the_place_where_it_fails(service: Service, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(UploadError, match=reason):
        S3Objects({**environment(service), **changes}).put("bucket", "key", b"")


def test_goes_to_the_regions_s3_and_trusts_the_devices_root(tmp_path: Path) -> None:
    root = Path(__file__).parents[1] / "edge_server" / "amazon_root_ca_1.pem"
    objects = S3Objects({"AWS_REGION": "eu-central-1", "GG_ROOT_CA_PATH": str(root)})

    url = objects._url("bucket", "captures/x")

    assert url == "https://bucket.s3.eu-central-1.amazonaws.com/captures/x"
    assert objects._tls(url) is not None
    assert objects._tls("http://127.0.0.1") is None


def test_a_python_that_cannot_write_to_s3_is_told_as_any_other_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where a library that TLS needs is another one's.
    monkeypatch.setitem(sys.modules, "edge_inference.s3_objects", None)

    with pytest.raises(OSError, match="this device's Python cannot write to S3"):
        open_s3()


def test_an_address_of_the_token_exchange_that_is_none_is_told() -> None:
    store = S3Objects({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "localhost"})

    with pytest.raises(UploadError, match="no credentials from the device's token exchange"):
        store.put("bucket", "key", b"body")
