"""The rules of a compilation job are the API's own, and a mistake is named with field, rule and value."""

from dataclasses import replace
from typing import Any

import aws_cdk as cdk
import botocore.session
import pytest

from edge_constructs import neo_compilation as rules
from edge_constructs.neo_compilation import CompilationError, CompilationLimits, CompilationTarget, NeoCompiler

TARGET = CompilationTarget(framework="ONNX", input_shapes={"image": [1, 1, 8, 8]}, architecture="x86_64")


@pytest.fixture(scope="module")
def api() -> Any:
    return botocore.session.get_session().get_service_model("sagemaker").operation_model("CreateCompilationJob")


def member(api: Any, *path: str) -> Any:
    shape = api.input_shape
    for name in path:
        shape = shape.member if name == "[]" else shape.members[name]
    return shape


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (rules.JOB_NAME, ["CompilationJobName"]),
        (rules.ROLE_ARN, ["RoleArn"]),
        (rules.S3_URI, ["InputConfig", "S3Uri"]),
        (rules.S3_URI, ["OutputConfig", "S3OutputLocation"]),
        (rules.DATA_INPUT_CONFIG, ["InputConfig", "DataInputConfig"]),
        (rules.FRAMEWORK_VERSION, ["InputConfig", "FrameworkVersion"]),
        (rules.COMPILER_OPTIONS, ["OutputConfig", "CompilerOptions"]),
        (rules.KMS_KEY_ID, ["OutputConfig", "KmsKeyId"]),
        (rules.VPC_ID, ["VpcConfig", "Subnets", "[]"]),
        (rules.VPC_ID, ["VpcConfig", "SecurityGroupIds", "[]"]),
    ],
)
def test_texts_follow_the_apis_patterns_and_lengths(api: Any, rule: rules.TextRule, path: list[str]) -> None:
    told = member(api, *path).metadata

    assert (rule.pattern, rule.minimum, rule.maximum) == (told["pattern"], told["min"], told["max"])


def test_choices_and_counts_are_the_apis(api: Any) -> None:
    output = ["OutputConfig", "TargetPlatform"]

    assert list(rules.FRAMEWORKS) == member(api, "InputConfig", "Framework").enum
    assert list(rules.DEVICES) == member(api, "OutputConfig", "TargetDevice").enum
    assert list(rules.SYSTEMS) == member(api, *output, "Os").enum
    assert list(rules.ARCHITECTURES) == member(api, *output, "Arch").enum
    assert list(rules.ACCELERATORS) == member(api, *output, "Accelerator").enum
    for field, (least, most) in (("Subnets", rules.SUBNETS), ("SecurityGroupIds", rules.SECURITY_GROUPS)):
        told = member(api, "VpcConfig", field).metadata
        assert (least, most) == (told["min"], told["max"])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"framework": "CAFFE"}, r"framework must be one of TENSORFLOW, .*, got 'CAFFE'"),
        ({"framework_version": "v1"}, r"framework_version must have 3 to 10 characters, got 2: 'v1'"),
        ({"framework_version": "one.7"}, r"framework_version must match .*, got 'one.7'"),
        ({"input_shapes": {}}, "input_shapes must name the inputs of a ONNX model, got none"),
        ({"input_shapes": {"a": [1, 0]}}, r"input_shapes.a must be whole numbers from 1, or -1 .*, got \[1, 0\]"),
        ({"input_shapes": {"a": [1, True]}}, "input_shapes.a must be whole numbers"),
        ({"input_shapes": {"a": []}}, "input_shapes.a must be whole numbers"),
        ({"input_shapes": {"": [1]}}, "input_shapes must name each input"),
        ({"input_shapes": {"a": [1] * 9000}}, "input_shapes must have 1 to 16384 characters"),
        ({"device": "jetson_orin"}, "device must be one of lambda, .*, got 'jetson_orin'"),
        ({"device": "rasp4b", "accelerator": "MALI"}, "accelerator must be left out with device rasp4b, got 'MALI'"),
        ({"accelerator": "TPU"}, "accelerator must be one of INTEL_GRAPHICS, MALI, NVIDIA, NNA, got 'TPU'"),
        ({"accelerator": "NVIDIA"}, "compiler_options must hold gpu-code, trt-ver, cuda-ver for NVIDIA"),
        ({"architecture": "riscv64"}, "architecture must be one of x86_64, aarch64, got 'riscv64'"),
        ({"system": "QNX"}, "system must be one of ANDROID, LINUX, got 'QNX'"),
        ({"compiler_options": {"mattr": ["x" * 1100]}}, "compiler_options must have 3 to 1024 characters"),
    ],
)
def test_a_target_that_sagemaker_would_refuse_is_named(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(CompilationError, match=f"^compilation of edgewright-x-digits: {error}"):
        compilation(target=replace(TARGET, **changes))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"job": "under_score"}, r"job must match .*, got 'under_score'"),
        ({"job": "x" * 51}, "job must have 1 to 50 characters, got 51"),
        ({"role_arn": "arn:aws:iam::12:role/x"}, "role_arn must match"),
        ({"source_uri": "/model.tar.gz"}, "source_uri must match"),
        ({"output_uri": "s3://" + "b" * 1030}, "output_uri must have 0 to 1024 characters"),
        ({"key_arn": "a key"}, "key_arn must match"),
        ({"limits": CompilationLimits(0)}, "max_runtime_minutes must be 1 to 45, got 0"),
        ({"limits": CompilationLimits(30, ("subnet-1",))}, "security_groups must hold 1 to 5 ids where a VPC is used"),
        ({"limits": CompilationLimits(30, (), ("sg-1",))}, "subnets must hold 1 to 16 ids where a VPC is used, got 0"),
        ({"limits": CompilationLimits(30, ("s 1",), ("sg-1",))}, "subnets must match .*, got 's 1'"),
    ],
)
def test_a_job_that_sagemaker_would_refuse_is_named(changes: dict[str, Any], error: str) -> None:
    with pytest.raises(CompilationError, match=error):
        compilation(**changes)


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(CompilationError) as raised:
        compilation(target=replace(TARGET, framework="CAFFE", framework_version="1"), limits=CompilationLimits(99))

    assert len(str(raised.value).splitlines()) == 3


def test_a_device_takes_the_place_of_a_platform() -> None:
    properties = properties_of(replace(TARGET, device="jetson_xavier", architecture=""))

    assert properties["TargetDevice"] == "jetson_xavier"
    assert not {"TargetOs", "TargetArch", "TargetAccelerator"} & set(properties)


def test_a_model_that_knows_its_shapes_needs_none() -> None:
    target = replace(TARGET, framework="XGBOOST", input_shapes={})

    compilation(target=target)
    assert "DataInputConfig" not in properties_of(target)


def properties_of(target: CompilationTarget) -> dict[str, Any]:
    job = {"model": "x", "name_prefix": "x", "role_arn": "role", "source_uri": "s3://a/b", "output_uri": "s3://a/c"}
    return target.job(**job, max_runtime_s=60).to_properties()


def compilation(**changes: Any) -> cdk.CustomResource:
    arguments = {
        "job": "edgewright-x-digits",
        "role_arn": "arn:aws:iam::111122223333:role/compiler",
        "source_uri": "s3://bucket/model.tar.gz",
        "output_uri": "s3://bucket/compiled",
        "target": TARGET,
        "key_arn": "arn:aws:kms:eu-west-1:111122223333:key/1",
        **changes,
    }
    of_all = {name: arguments.pop(name) for name in ("role_arn", "output_uri", "key_arn")}
    stack = cdk.Stack()
    compiler = NeoCompiler(stack, "Neo", jobs="edgewright-x", max_runtime_minutes=30, **of_all)
    return compiler.compile(stack, "Compilation", model="digits", **arguments)
