import io
import zipfile
from typing import Any

import pytest

from edge_handlers.model_package import on_event
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


def test_the_same_content_makes_the_same_bytes(bucket: FakeS3) -> None:
    first = run(event.create("model_package"))
    bucket.put("artifacts-dev", SOURCE, targz(dict(reversed(PORTABLE.items())), seconds=1_700_000_000))

    again = run(
        event.create(
            "model_package", Manifest='{"inputs": [{"shape": [1, 64], "name": "input"}], "labels": ["0", "1"]}'
        )
    )

    assert again == first


def test_a_duplicate_event_writes_nothing_again(bucket: FakeS3) -> None:
    first = run(event.create("model_package"))

    assert run(event.create("model_package")) == first
    assert (len(bucket.called("upload_fileobj")), len(bucket.called("put_object"))) == (1, 1)


def test_an_update_in_place_repairs_what_was_changed_at_the_key(bucket: FakeS3) -> None:
    first = run(event.create("model_package"))
    same_size = bytes(int(first["Data"]["Bytes"]))
    bucket.put("artifacts-dev", first["Data"]["Key"], same_size)

    answer = run(event.update("model_package", first["PhysicalResourceId"]))

    assert answer == first
    assert package(bucket, answer)["model.onnx"] == b"compiled"


@pytest.mark.parametrize("change", [{"Version": "2"}, {"Manifest": '{"labels": ["a"]}'}, {"CompiledUri": ""}])
def test_other_content_is_a_replacement_and_the_old_package_stays(bucket: FakeS3, change: dict[str, Any]) -> None:
    first = run(event.create("model_package"))

    answer = run(event.update("model_package", first["PhysicalResourceId"], ContentSha256="c1" * 32, **change))
    run(event.delete("model_package", first["PhysicalResourceId"]))

    assert answer["PhysicalResourceId"] != first["PhysicalResourceId"]
    assert package(bucket, first), "an offline device may still fetch it"


def test_a_rollback_finds_the_former_package(bucket: FakeS3) -> None:
    first = run(event.create("model_package"))
    other: dict[str, Any] = {"Version": "2", "ContentSha256": "c1" * 32}
    second = run(event.update("model_package", first["PhysicalResourceId"], **other))

    answer = run(event.update("model_package", second["PhysicalResourceId"], old=other))

    assert answer == first
    assert len(bucket.called("upload_fileobj")) == 2


def test_delete_keeps_the_package_and_can_come_twice_with_any_properties(bucket: FakeS3) -> None:
    first = run(event.create("model_package"))

    for _ in range(2):
        answer = run(event.delete("model_package", first["PhysicalResourceId"], SourceUri=None, Manifest="not JSON"))
        assert answer == {"PhysicalResourceId": first["PhysicalResourceId"]}
    assert package(bucket, first)


def test_old_properties_are_not_needed(bucket: FakeS3) -> None:
    request = event.update("model_package", "s3://artifacts-dev/old", old={"SourceUri": None, "Manifest": None})

    assert run(request)["Data"]["Runtime"] == "onnxruntime"
