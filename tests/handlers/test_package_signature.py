import base64
import io
import json
import zipfile
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_handlers.model_package import on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_kms import FakeKms
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import targz

KEY = "arn:aws:kms:eu-west-1:111122223333:key/signing"


@pytest.fixture
def bucket(s3: FakeS3) -> FakeS3:
    s3.put("artifacts-dev", "sources/digits/SHA/model.tar.gz", targz({"model.onnx": b"portable"}))
    return s3


def run(**changes: Any) -> dict[str, Any]:
    request = event.create("model_package", **{"CompiledUri": "", "SigningKeyId": KEY, **changes})
    data: dict[str, Any] = on_event(request, Context())["Data"]
    return data


def files(s3: FakeS3, data: dict[str, Any]) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(s3.content("artifacts-dev", data["Key"]) or b"")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_public_key_that_is_told_checks_the_manifest(bucket: FakeS3, kms: FakeKms) -> None:
    data = run()

    package = files(bucket, data)
    key = serialization.load_der_public_key(base64.b64decode(data["PublicKey"]))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(package["manifest.sig"], package["manifest.json"], ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(package["manifest.sig"], package["manifest.json"] + b" ", ec.ECDSA(hashes.SHA256()))
    assert "manifest.sig" not in json.loads(package["manifest.json"])["files"]


def test_a_manifest_of_any_length_is_signed(bucket: FakeS3, kms: FakeKms) -> None:
    labels = [f"label number {number}" for number in range(1000)]

    data = run(Manifest=json.dumps({"labels": labels}))

    assert len(files(bucket, data)["manifest.json"]) > 4096
    assert data["PublicKey"]


def test_the_same_content_makes_the_same_bytes_though_signatures_differ(bucket: FakeS3, kms: FakeKms) -> None:
    first = run()
    second = run()

    assert first == second
    assert len(kms.called("sign")) == 1


def test_another_key_signs_anew(bucket: FakeS3, kms: FakeKms) -> None:
    first = run()

    kms.private = FakeKms().private
    # The stage's revision is part of the content; without another one the first package is not written over.
    other = run(SigningKeyId=f"{KEY}-2", ContentSha256="c1" * 32)

    assert other["Key"] != first["Key"]
    assert files(bucket, other)["manifest.sig"] != files(bucket, first)["manifest.sig"]


@pytest.mark.parametrize("call", ["sign", "get_public_key"])
def test_a_refused_call_names_the_key(bucket: FakeS3, kms: FakeKms, call: str) -> None:
    kms.refuse(call, "AccessDeniedException")

    with pytest.raises(AwsCallError, match=rf"cannot .*{KEY}: .*AccessDenied"):
        run()
    assert not bucket.called("upload_fileobj")


def test_a_source_with_a_file_of_that_name_is_refused(s3: FakeS3, kms: FakeKms) -> None:
    s3.put("artifacts-dev", "sources/digits/SHA/model.tar.gz", targz({"model.onnx": b"", "manifest.sig": b""}))

    with pytest.raises(ValueError, match=r"must not hold manifest.sig, which is written here"):
        run()
