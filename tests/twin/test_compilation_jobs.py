from __future__ import annotations

import io
import json
import sys
import tarfile
import time
import uuid
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from botocore.exceptions import ClientError

from edge_handlers import neo_serving
from tests.twin.conftest import Clients, trust, wait_until
from twin.cloud.aws.shapes import mistakes
from twin.cloud.aws.worker import OrderError
from twin.cloud.sagemaker.compiler import InputError, compile_torch, extract_model, optimise, pack_artifact
from twin.cloud.sagemaker.model_server import by_entry_point
from twin.files import unpack

MODEL = Path(__file__).resolve().parents[2] / "edge_assets" / "models" / "digits" / "model.onnx"
BUCKET = "compilation-sources"
SHAPE = {"image": [1, 1, 8, 8]}

Start = Callable[..., str]


def archive(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(scope="module")
def role(client: Clients) -> str:
    client("s3").create_bucket(Bucket=BUCKET)
    made = client("iam").create_role(
        RoleName="compilation", AssumeRolePolicyDocument=json.dumps(trust("sagemaker.amazonaws.com"))
    )
    objects = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    client("iam").put_role_policy(
        RoleName="compilation",
        PolicyName="objects",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [objects]}),
    )
    return str(made["Role"]["Arn"])


@pytest.fixture
def start(client: Clients, role: str) -> Start:
    def run(name: str, source: bytes, shape: dict[str, Any], **stopping: int) -> str:
        client("s3").put_object(Bucket=BUCKET, Key=f"{name}/model.tar.gz", Body=source)
        client("sagemaker").create_compilation_job(
            CompilationJobName=name,
            RoleArn=role,
            InputConfig={
                "S3Uri": f"s3://{BUCKET}/{name}/model.tar.gz",
                "DataInputConfig": json.dumps(shape),
                "Framework": "ONNX",
            },
            OutputConfig={
                "S3OutputLocation": f"s3://{BUCKET}/{name}/out/",
                "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
            },
            StoppingCondition=stopping or {"MaxRuntimeInSeconds": 120},
        )
        return name

    return run


def finished(client: Clients, name: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        job = client("sagemaker").describe_compilation_job(CompilationJobName=name)
        return dict(job) if job["CompilationJobStatus"] in ("COMPLETED", "FAILED", "STOPPED") else None

    return dict(wait_until(final, 60))


def test_a_good_model_is_compiled_to_what_neo_makes_and_onnx_runtime_cannot_read(
    client: Clients, start: Start, tmp_path: Path
) -> None:
    job = finished(client, start("good", archive("model.onnx", MODEL.read_bytes()), SHAPE))

    assert job["CompilationJobStatus"] == "COMPLETED"
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/good/out/model-LINUX_X86_64.tar.gz"
    body = client("s3").get_object(Bucket=BUCKET, Key="good/out/model-LINUX_X86_64.tar.gz")["Body"].read()
    (tmp_path / "compiled.tar.gz").write_bytes(body)
    with tarfile.open(tmp_path / "compiled.tar.gz") as tar:
        for member in tar:
            unpack(tar, member, tmp_path / "out")
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(made) == {"compiled.so", "compiled.params", "compiled_model.json", "compiled.meta"}
    assert made["compiled.so"][:6] == b"\x7fELF\x02\x01"
    assert json.loads(made["compiled_model.json"])["nodes"][0]["name"] == "image"
    for content in made.values():
        with pytest.raises(Exception, match=r"INVALID_PROTOBUF|INVALID_ARGUMENT|FAIL"):
            onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def torchscript(**files: bytes) -> bytes:
    """A ZIP with the names that torch.jit.save writes; torch itself is not here to make a real one."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as module:
        for name, content in files.items():
            module.writestr(f"model/{name.replace('__', '/')}", content)
    return stream.getvalue()


TRACED = torchscript(**{"constants.pkl": b"", "data.pkl": b"", "code__model.py": b""})
TORCH_INPUT = {"S3Uri": "", "DataInputConfig": '{"input0": [1, 3]}', "Framework": "PYTORCH"}


@pytest.mark.parametrize(
    ("device", "made"),
    [
        ("ml_c5", {"compiled.pt"}),
        ("", {"compiled.so", "compiled.params", "compiled_model.json", "compiled.meta"}),
    ],
)
def test_a_traced_module_is_packed_for_neos_image_or_looks_like_a_devices_library(
    tmp_path: Path, device: str, made: set[str]
) -> None:
    source = tmp_path / "model.tar.gz"
    source.write_bytes(archive("model.pt", TRACED))

    packed = compile_torch(source, tmp_path / "source", TORCH_INPUT, device)

    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert set(tar.getnames()) == made


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.onnx", b"", "exactly one file with the extension .pt or .pth, got none"),
        ("model.pth", b"weights", "must be a module that torch.jit.save wrote, got no ZIP"),
        ("model.pth", torchscript(**{"data.pkl": b""}), r"must be a traced module .*, got one without code"),
    ],
)
def test_what_is_no_traced_module_is_refused_as_by_neo(tmp_path: Path, name: str, content: bytes, error: str) -> None:
    source = tmp_path / "model.tar.gz"
    source.write_bytes(archive(name, content))

    with pytest.raises(InputError, match=error):
        compile_torch(source, tmp_path / "source", TORCH_INPUT, "ml_c5")


STAND_IN = """
import contextlib, zipfile
class Tensor:
    def __init__(self, values): self.values = values
    def numpy(self): return self.values
class jit:
    @staticmethod
    def load(path):
        assert zipfile.ZipFile(path).namelist()
        return lambda image: (Tensor(image.values.sum(axis=1)), Tensor(image.values * 2))
def from_numpy(values): return Tensor(values)
no_grad = contextlib.nullcontext
"""


def test_the_entry_point_answers_in_the_models_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for torch, which is not here: the entry point's own code is what is run.
    (tmp_path / "torch.py").write_text(STAND_IN)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(Path(neo_serving.__file__).read_text())
    (tmp_path / "compiled.pt").write_bytes(TRACED)
    body = json.dumps({"inputs": [{"name": "image", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]})
    with pytest.raises(OrderError, match=r"serves PyTorch with torch alone, and this interpreter has none"):
        by_entry_point(tmp_path, body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    answer = by_entry_point(tmp_path, body)
    monkeypatch.delitem(sys.modules, "torch")

    assert answer == {
        "outputs": [
            {"datatype": "FP32", "shape": [1], "data": [3.0]},
            {"datatype": "FP32", "shape": [1, 2], "data": [2.0, 4.0]},
        ]
    }


def test_the_optimised_model_answers_alike(tmp_path: Path) -> None:
    optimise(MODEL, tmp_path / "model.onnx", json.dumps(SHAPE), "X86_64")

    image = np.random.default_rng(1).random((1, 1, 8, 8), dtype=np.float32)
    sessions = [onnxruntime.InferenceSession(path) for path in (MODEL, tmp_path / "model.onnx")]
    before, after = (session.run(None, {"image": image})[0] for session in sessions)
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_broken_inputs_fail_with_neos_reason_and_the_server_lives(client: Clients, start: Start) -> None:
    model = MODEL.read_bytes()
    jobs = {
        start("no-archive", b"nope", SHAPE): "the model artifact must be a readable .tar.gz archive",
        start(
            "no-model", archive("readme.txt", b"hello"), SHAPE
        ): "exactly one file with the extension .onnx, got none",
        start("broken-model", archive("model.onnx", b"garbage" * 99), SHAPE): "ONNX Runtime cannot load the model",
        start("wrong-name", archive("model.onnx", model), {"picture": [1]}): "must name the model's inputs image",
    }

    for name, reason in jobs.items():
        job = finished(client, name)
        assert job["CompilationJobStatus"] == "FAILED"
        assert job["FailureReason"].startswith("ClientError: InputConfiguration: ")
        assert reason in job["FailureReason"]
    assert client("s3").list_objects_v2(Bucket=BUCKET, Prefix="no-archive/out")["KeyCount"] == 0


def test_a_running_job_can_be_stopped_then_deleted_but_not_before(client: Clients, start: Start) -> None:
    sagemaker, source = client("sagemaker"), archive("model.onnx", MODEL.read_bytes())
    refused: list[str] = []

    def stopped() -> str | None:
        """Name of a job that had not ended before it was to be deleted and stopped, as it may on a busy machine."""
        name = start(f"stopped-{uuid.uuid4().hex[:8]}", source, SHAPE)
        try:
            sagemaker.delete_compilation_job(CompilationJobName=name)
        except ClientError as exc:
            refused.append(exc.response["Error"]["Code"])
        else:
            return None
        with suppress(ClientError):
            sagemaker.stop_compilation_job(CompilationJobName=name)
        return name if finished(client, name)["CompilationJobStatus"] == "STOPPED" else None

    name = wait_until(stopped, 60)

    assert set(refused) == {"ValidationException"}
    sagemaker.delete_compilation_job(CompilationJobName=name)

    with pytest.raises(ClientError, match="ResourceNotFound"):
        sagemaker.describe_compilation_job(CompilationJobName=name)


def test_a_name_that_is_taken_is_in_use(client: Clients, start: Start) -> None:
    start("twice", b"nope", SHAPE)

    with pytest.raises(ClientError, match="ResourceInUse"):
        start("twice", b"nope", SHAPE)


def test_a_role_that_sagemaker_may_not_assume_is_refused(client: Clients, role: str) -> None:
    client("iam").create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(trust("ec2.amazonaws.com")))

    with pytest.raises(ClientError, match=r"Could not assume role .*allows principal 'sagemaker"):
        client("sagemaker").create_compilation_job(
            CompilationJobName="untrusted",
            RoleArn=role.replace("compilation", "other"),
            InputConfig={"S3Uri": "s3://b/k.tar.gz", "Framework": "ONNX"},
            OutputConfig={"S3OutputLocation": "s3://b/o", "TargetDevice": "ml_c5"},
            StoppingCondition={},
        )


def test_jobs_are_listed_by_name_in_pages(client: Clients, start: Start) -> None:
    for name in ("page-1", "page-2", "page-3"):
        start(name, b"nope", SHAPE)

    pages = client("sagemaker").get_paginator("list_compilation_jobs")
    found = pages.paginate(NameContains="page-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2})

    names = [job["CompilationJobName"] for page in found for job in page["CompilationJobSummaries"]]
    assert names == ["page-1", "page-2", "page-3"]


def test_a_request_is_checked_against_the_service_model() -> None:
    found = mistakes(
        "sagemaker", "CreateCompilationJob", {"CompilationJobName": "a_b", "InputConfig": {"S3Uri": "s3://b"}}
    )

    assert any("'a_b' at 'compilationJobName'" in mistake for mistake in found)
    assert any("'inputConfig.framework'" in mistake for mistake in found)
    assert any("'roleArn'" in mistake for mistake in found)


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.tar.gz").write_bytes(archive("../evil.onnx", b"x"))
    (tmp_path / "out").mkdir()

    with pytest.raises(InputError):
        extract_model(tmp_path / "evil.tar.gz", tmp_path / "out")

    assert not (tmp_path / "evil.onnx").exists()


def test_the_compiled_archive_depends_on_the_model_alone() -> None:
    first = pack_artifact(b"model", SHAPE, "X86_64")
    time.sleep(1.1)

    assert pack_artifact(b"model", SHAPE, "X86_64") == first
    assert pack_artifact(b"model", SHAPE, "ARM64") != first


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{'image': [1]}", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"image": [1, 1, 8, "8"]}', "must be a list of sizes"),
        ('{"image": [1, 3, 8, 8]}', "must fit the model's shape"),
    ],
)
def test_a_wrong_data_input_config_says_what_is_expected(config: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        optimise(MODEL, tmp_path / "model.onnx", config, None)
