import errno
import hashlib
import io
import json
import zipfile
from typing import Any

import pytest

from edge_handlers import model_package
from edge_handlers.model_package import LayoutError, on_event
from edge_handlers.s3_objects import ContentError
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.model_archive import targz

SOURCE = "sources/digits/SHA/model.tar.gz"
COMPILED = "compiled/edgewright-dev-digits-0123456789ab/model-LINUX_X86_64.tar.gz"
PORTABLE = {"model.onnx": b"portable", "samples.npz": b"samples", "labels.txt": b"0\n1\n"}


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return on_event(request, Context(seconds))


@pytest.fixture
def bucket(s3: FakeS3) -> FakeS3:
    s3.put("artifacts-dev", SOURCE, targz(PORTABLE))
    s3.put("artifacts-dev", COMPILED, targz({"optimised.onnx": b"compiled", "report.json": b"{}"}))
    return s3


def package(s3: FakeS3, answer: dict[str, Any]) -> dict[str, bytes]:
    """Files of the package that an answer names."""
    with zipfile.ZipFile(io.BytesIO(s3.content("artifacts-dev", answer["Data"]["Key"]) or b"")) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_packs_the_compiled_model_with_the_sources_files(bucket: FakeS3) -> None:
    answer = run(event.create("model_package"))

    files = package(bucket, answer)
    manifest = json.loads(files.pop("manifest.json"))
    assert files == {
        "model.onnx": b"compiled",
        "compiled/report.json": b"{}",
        "samples.npz": b"samples",
        "labels.txt": b"0\n1\n",
    }
    assert manifest == {
        "name": "Digits",
        "version": "1",
        "runtime": "onnxruntime",
        "labels": ["0", "1"],
        "inputs": [{"name": "input", "shape": [1, 64]}],
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
    }


def test_tells_where_the_package_is_by_the_digest_of_what_it_is_made_of(bucket: FakeS3) -> None:
    answer = run(event.create("model_package"))

    content = bucket.content("artifacts-dev", answer["Data"]["Key"]) or b""
    sha = hashlib.sha256(content).hexdigest()
    place = f"models/digits/{'c0' * 32}"
    uri = f"s3://artifacts-dev/{place}/Digits.zip"
    assert answer == {
        "PhysicalResourceId": uri,
        "Data": {
            "Uri": uri,
            "Key": f"{place}/Digits.zip",
            "ManifestUri": f"s3://artifacts-dev/{place}/manifest.json",
            "Sha256": sha,
            "Bytes": str(len(content)),
            "Runtime": "onnxruntime",
            "PublicKey": "",
        },
    }
    manifest = bucket.content("artifacts-dev", f"{place}/manifest.json")
    assert manifest == package(bucket, answer)["manifest.json"]


def test_neos_own_format_lies_beside_the_portable_model(bucket: FakeS3) -> None:
    bucket.put("artifacts-dev", COMPILED, targz({"compiled.so": b"so", "compiled.params": b"params"}))

    answer = run(event.create("model_package"))

    assert answer["Data"]["Runtime"] == "dlr"
    files = package(bucket, answer)
    assert files["model.onnx"] == b"portable"
    assert (files["compiled/compiled.so"], files["compiled/compiled.params"]) == (b"so", b"params")
    assert json.loads(files["manifest.json"])["runtime"] == "dlr"


def test_a_model_need_not_be_compiled(bucket: FakeS3) -> None:
    answer = run(event.create("model_package", CompiledUri=""))

    assert answer["Data"]["Runtime"] == "onnxruntime"
    assert package(bucket, answer)["model.onnx"] == b"portable"


def test_a_model_of_another_name_becomes_model_onnx(bucket: FakeS3) -> None:
    bucket.put("artifacts-dev", SOURCE, targz({"digits-v3.onnx": b"portable"}))

    files = package(bucket, run(event.create("model_package", CompiledUri=None)))

    assert set(files) == {"manifest.json", "model.onnx"}


def test_a_key_encrypts_the_package_and_its_manifest(bucket: FakeS3) -> None:
    run(event.create("model_package", KmsKeyId="key"))

    for call in [*bucket.called("upload_fileobj"), *bucket.called("put_object")]:
        assert (call["ServerSideEncryption"], call["SSEKMSKeyId"]) == ("aws:kms", "key")


@pytest.mark.parametrize(
    ("source", "compiled", "error"),
    [
        (
            {"readme": b""},
            {"compiled.so": b""},
            rf"s3://artifacts-dev/{SOURCE} must hold exactly one .onnx file, got none",
        ),
        ({"a.onnx": b"", "b.onnx": b""}, {"x.so": b""}, "must hold exactly one .onnx file, got .'a.onnx', 'b.onnx'"),
        (PORTABLE, {"a.onnx": b"", "b.onnx": b""}, rf"s3://artifacts-dev/{COMPILED} must hold exactly one"),
        ({**PORTABLE, "manifest.json": b"{}"}, {"a.so": b""}, "must not hold manifest.json, which is written here"),
        ({**PORTABLE, "compiled/a": b""}, {"a": b""}, "must not hold compiled/a, which the package has already"),
    ],
)
def test_refuses_archives_that_make_no_package(
    bucket: FakeS3, source: dict[str, bytes], compiled: dict[str, bytes], error: str
) -> None:
    bucket.put("artifacts-dev", SOURCE, targz(source))
    bucket.put("artifacts-dev", COMPILED, targz(compiled))

    with pytest.raises(LayoutError, match=error):
        run(event.create("model_package"))
    assert not bucket.called("upload_fileobj")


@pytest.mark.parametrize("call", ["get_object", "head_object", "upload_fileobj", "put_object"])
def test_access_denied_names_the_object(bucket: FakeS3, call: str) -> None:
    bucket.refuse(call, "AccessDenied")

    with pytest.raises(AwsCallError, match=r"cannot (read model archive|write) s3://artifacts-dev/.*AccessDenied"):
        run(event.create("model_package"))


def test_a_missing_compiled_archive_is_named(bucket: FakeS3) -> None:
    place = "s3://artifacts-dev/compiled/edgewright-dev-digits-ba9876543210/gone.tar.gz"

    with pytest.raises(AwsCallError, match=rf"cannot read model archive {place}: .*NoSuchKey"):
        run(event.create("model_package", CompiledUri=place))


def test_a_package_that_is_there_with_other_bytes_is_not_written_over(bucket: FakeS3) -> None:
    key = run(event.create("model_package"))["Data"]["Key"]
    before = bucket.content("artifacts-dev", key)
    bucket.put("artifacts-dev", COMPILED, targz({"model.onnx": b"compiled otherwise"}))

    with pytest.raises(ContentError, match=r"must have the content [0-9a-f]{64}, got [0-9a-f]{64}: .* raise revision"):
        run(event.create("model_package"))

    assert bucket.content("artifacts-dev", key) == before


def test_a_full_disk_says_what_to_raise(bucket: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_package, "write_zip", full)

    with pytest.raises(model_package.DiskError, match="raise its ephemeral storage"):
        run(event.create("model_package"))


def test_stops_by_itself_before_the_function_is_stopped(bucket: FakeS3) -> None:
    with pytest.raises(DeadlineError, match=f"read s3://artifacts-dev/{COMPILED}"):
        run(event.create("model_package"), seconds=1)


@pytest.mark.parametrize(
    "name", ["SourceUri", "Bucket", "Model", "JobNamePrefix", "Name", "Version", "ContentSha256", "Manifest"]
)
def test_names_a_missing_property(bucket: FakeS3, name: str) -> None:
    with pytest.raises(ValueError, match=rf"ResourceProperties\.{name} is required"):
        run(event.create("model_package", **{name: None}))
