"""Every combination of a model's switches synthesises through the policy gate, or says why it cannot."""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage, read_context
from config.model import Model
from config.places import MODELS
from config.stage import Stage
from edge_constructs.edge_assets import MissingAssetError
from edge_constructs.model_package import ImageUriError, neo_image, triton_image
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_constructs.reproducible_zip import StrangerError
from edge_constructs.synth import PolicyGate, new_app
from stacks.edgewright import define_stacks
from stacks.models_stack import SAMPLE, ModelsStack, sample_file
from tests.wheel_archive import wheel_archive

IMAGE = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-tritonserver:26.05-py3-cpu"
CUSTOM = {
    "neo": "Custom::NeoCompilation",
    "onnxruntime": "Custom::OnnxCompilation",
    "edge-manager": "Custom::EdgePackaging",
    "endpoint": "Custom::ModelVerification",
}


def stage_file(
    folder: Path, *, region: str = "eu-west-1", compiler: str = "neo", packager: str = "own", verify: str = "none"
) -> Path:
    (folder / "lab.toml").write_text(
        f'region = "{region}"\n[[models]]\nfolder = "digits"\ncompiler = "{compiler}"\npackager = "{packager}"\n'
        f'verify = "{verify}"\n[models.verification]\nimage = "{IMAGE}"\n[runtime]\npython = "host"\n'
        'architecture = "host"\n',
        encoding="utf-8",
    )
    return folder


COMBINATIONS = [
    combination
    for combination in product(["neo", "onnxruntime", "none"], ["own", "edge-manager"], ["none", "endpoint"])
    if (combination[1] == "own" or combination[0] == "neo") and (combination[0] != "neo" or combination[2] == "none")
]
Combination = tuple[str, str, str]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[Combination, dict[str, Any]]:
    """The models' stack of the stage of each combination, all in the app of the first one."""
    stages: dict[Combination, Stage] = {}
    for compiler, packager, verify in COMBINATIONS:
        file = stage_file(tmp_path_factory.mktemp("stage"), compiler=compiler, packager=packager, verify=verify)
        stages[compiler, packager, verify] = load_stage("lab", file)
    first, *others = stages.values()
    define_one = ModelsStack.__init__

    def define(self: ModelsStack, scope: Any, construct_id: str, *, stage: Stage, **needed: Any) -> None:
        define_one(self, scope, construct_id, stage=stage, **needed)
        if stage is first:
            for number, other in enumerate(others, 1):
                ModelsStack(scope, f"Models{number}", stage=other, **needed)

    app = new_app(read_context(), outdir=tmp_path_factory.mktemp("out"))
    gate = PolicyGate(app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelsStack, "__init__", define)
        # Set-up makes the compiler's archive only for a stage that compiles by ONNX Runtime.
        patch.setattr("stacks.models_stack.compiler_archive", wheel_archive)
        define_stacks(app, first)
    assembly = gate.synth()
    names = ["Models", *(f"Models{number}" for number in range(1, len(stages)))]
    return {
        combination: json.loads((assembly / f"{name}.template.json").read_text(encoding="utf-8"))
        for combination, name in zip(stages, names, strict=True)
    }


@pytest.mark.parametrize(("compiler", "packager", "verify"), COMBINATIONS)
def test_each_combination_passes_the_gate_with_exactly_its_resources(
    templates: dict[Combination, dict[str, Any]], compiler: str, packager: str, verify: str
) -> None:
    content = templates[compiler, packager, verify]

    kinds = {resource["Type"] for resource in content["Resources"].values()}
    for switch, kind in CUSTOM.items():
        assert (kind in kinds) == (switch in (compiler, packager, verify)), switch
    (package,) = [each for each in content["Resources"].values() if each["Type"] == "Custom::ModelPackage"]
    assert json.loads(package["Properties"]["Manifest"])["compiler"] == compiler
    compiled = json.dumps(package["Properties"].get("CompiledUri", ""))
    assert ("ArtifactUri" in compiled) == (compiler != "none")


@pytest.mark.parametrize("compiler", ["onnxruntime", "none"])
def test_edge_manager_packs_only_what_neo_compiled(tmp_path: Path, compiler: str) -> None:
    with pytest.raises(ConfigurationError, match="packager edge-manager packs what neo compiled"):
        load_stage("lab", stage_file(tmp_path, compiler=compiler, packager="edge-manager"))


def test_what_neo_compiled_is_verified_on_the_kind_of_instance_that_it_is_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"set neo\.device to ml_c5 for ml\.c5\.large, got ''"):
        load_stage("lab", stage_file(tmp_path, compiler="neo", verify="endpoint"))
    (tmp_path / "lab.toml").write_text(torch_stage("ml_c5", "ml.c6i.large"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"set neo\.device to ml_c6i for ml\.c6i\.large, got 'ml_c5'"):
        load_stage("lab", tmp_path)


def torch_stage(device: str, instance: str = "ml.c5.large") -> str:
    return (
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\ncompiler = "neo"\nverify = "endpoint"\n'
        f'[models.neo]\ndevice = "{device}"\n[models.verification]\ninstance_type = "{instance}"\n'
        '[runtime]\npython = "host"\narchitecture = "host"\n'
    )


def torch_models(folder: Path, **compilation: Any) -> Path:
    """The models' folder with digits that have a compilation source; what it holds is not looked at in a synth."""
    models = folder / "models"
    shutil.copytree(MODELS / "digits", models / "digits")
    path = models / "digits" / "model.json"
    declaration = json.loads(path.read_text())
    inputs = [{"name": "input0", "shape": [1, 1, 8, 8]}]
    told = {"framework": "PYTORCH", "source": "digits.pt", "inputs": inputs} | compilation
    path.write_text(json.dumps({**declaration, "compilation": told}))
    (models / "digits" / "digits.pt").write_bytes(b"a traced module")
    return models


def models_template(folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (folder / "lab.toml").write_text(torch_stage("ml_c5"), encoding="utf-8")
    monkeypatch.setattr("stacks.models_stack.MODELS", models)
    app = new_app(read_context(), outdir=folder / "out")
    define_stacks(app, load_stage("lab", folder))
    app.synth()
    return template_of(folder, "Models")


def template_of(folder: Path, stack: str) -> dict[str, Any]:
    template: dict[str, Any] = json.loads((folder / "out" / f"{stack}.template.json").read_text(encoding="utf-8"))
    return template


def statements(template: dict[str, Any]) -> list[dict[str, Any]]:
    """What the roles of a template may do."""
    policies = [each for role in template["Resources"].values() for each in role["Properties"].get("Policies", [])]
    return [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]


def test_a_pytorch_source_is_compiled_and_verified_by_neos_own_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = models_template(tmp_path, torch_models(tmp_path), monkeypatch)

    found = {each["Type"]: each["Properties"] for each in template["Resources"].values()}
    job, check = found["Custom::NeoCompilation"], found["Custom::ModelVerification"]
    assert (job["Framework"], job["FrameworkVersion"], job["TargetDevice"]) == ("PYTORCH", "1.12", "ml_c5")
    assert json.loads(job["DataInputConfig"]) == {"input0": [1, 1, 8, 8]}
    assert job["SourceUri"] != found["Custom::ModelPackage"]["SourceUri"]
    assert check["Framework"] == "PYTORCH"
    assert check["Image"] == "802834080501.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-inference-pytorch:1.12-cpu-py3"
    (pulled,) = [
        each for each in statements(template_of(tmp_path, "Identity")) if "ecr:BatchGetImage" in each["Action"]
    ]
    assert json.dumps(pulled["Resource"]).count(":repository/") == 1
    assert ':repository/sagemaker-inference-pytorch"' in json.dumps(pulled["Resource"])
    (grant,) = [each for each in statements(template) if each["Action"] == ["kms:CreateGrant"]]
    assert grant["Resource"] == [check["KmsKeyId"]]
    assert grant["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


@pytest.mark.parametrize(
    ("image", "compiler", "repository"),
    [
        ("1.dkr.ecr.eu-west-1.amazonaws.com/our/server:1.2", "none", "our/server"),
        (f"1.dkr.ecr.eu-west-1.amazonaws.com/server@sha256:{64 * '0'}", "neo", "server"),
        (None, "none", IMAGE.partition("/")[2].partition(":")[0]),
        (None, "neo", "sagemaker-inference-pytorch"),
    ],
)
def test_the_role_of_an_endpoint_reads_the_image_that_serves(image: str | None, compiler: str, repository: str) -> None:
    neo = {"device": "ml_c5"} if compiler == "neo" else {}
    told = {"folder": "digits", "compiler": compiler, "neo": neo, "verification": {"image": image}}

    assert Model.model_validate(told).served_from == repository


@pytest.mark.parametrize(
    ("compilation", "error"),
    [
        ({"framework": "ONNX"}, "compilation.framework: must be one of PYTORCH, got 'ONNX'"),
        ({"framework": None}, "compilation.framework: must be one of PYTORCH, got None"),
        (
            {"source": "digits.onnx"},
            r"compilation.source: must be a \.pt or \.pth file in the folder, got 'digits.onnx'",
        ),
        ({"source": "../digits.pt"}, "compilation.source: must be a .* got '../digits.pt'"),
        ({"source": "gone.pt"}, "compilation.source: gone.pt is missing"),
        ({"inputs": []}, "compilation.inputs: is required, got nothing"),
        ({"inputs": [{"name": "x", "shape": "any"}]}, r"compilation.inputs\[0\]: must have a name, and a shape"),
        ({"version": "2"}, "compilation.version: must be framework, frameworkVersion, source or inputs"),
    ],
)
def test_a_compilation_source_that_cannot_be_is_refused(
    tmp_path: Path, compilation: dict[str, Any], error: str
) -> None:
    models = torch_models(tmp_path, **compilation)

    with pytest.raises(ModelDeclarationError, match=error):
        ModelSource.read(models / "digits")


def test_what_neo_makes_of_onnx_is_served_by_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ModelDeclarationError, match=r"digits: verify endpoint .* Neo's own image, and there is none for"
    ):
        models_template(tmp_path, MODELS, monkeypatch)


def test_neos_image_is_where_the_sdk_says() -> None:
    china = "472730292857.dkr.ecr.cn-north-1.amazonaws.com.cn/sagemaker-inference-pytorch:1.8-cpu-py3"
    assert neo_image("PYTORCH", "1.8", "cn-north-1") == china
    with pytest.raises(ImageUriError, match=r"image for framework PYTORCH, got 'MXNET'"):
        neo_image("MXNET", "1.8", "eu-west-1")
    with pytest.raises(ImageUriError, match=r"image for version of PYTORCH 1\.4, .*1\.12, got '2\.0'"):
        neo_image("PYTORCH", "2.0", "eu-west-1")
    with pytest.raises(ImageUriError, match=r"image for region af-south-1, .*, got 'mars-north-1'"):
        neo_image("PYTORCH", "1.12", "mars-north-1")


def test_edge_manager_names_the_regions_that_have_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"needs a region with SageMaker Edge Manager, .*got eu-north-1"):
        load_stage("lab", stage_file(tmp_path, region="eu-north-1", packager="edge-manager"))


def table(folder: Path) -> Path:
    entry = {"repository": "sagemaker-tritonserver", "registries": {"eu-west-1": "111122223333"}}
    versions = {"9.12": {**entry, "tag_prefix": "9.12-py3"}, "26.05": {**entry, "tag_prefix": "26.05-py3"}}
    (folder / "sagemaker-tritonserver.json").write_text(json.dumps({"versions": versions}))
    return folder


def test_the_image_is_the_newest_of_the_sdks_table(tmp_path: Path) -> None:
    assert triton_image("eu-west-1", table(tmp_path)) == IMAGE


def test_a_region_without_an_image_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ImageUriError, match="needs a region with a Triton image, one of eu-west-1, got mars-north-1"):
        triton_image("mars-north-1", table(tmp_path))


def test_without_the_sdk_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_constructs.model_package.PROJECT", tmp_path)
    with pytest.raises(ImageUriError, match=r"run make setup-sagemaker, or set models.verification.image"):
        triton_image("eu-west-1")

    folder = tmp_path / ".venv-sagemaker" / "lib" / "python3.11" / "site-packages" / "sagemaker" / "core"
    (folder / "image_uri_config").mkdir(parents=True)
    table(folder / "image_uri_config")
    assert triton_image("eu-west-1") == IMAGE


def test_the_sample_of_an_endpoint_is_a_file_of_the_models_own(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    sample, outside = folder / SAMPLE, tmp_path / "secrets.json"
    outside.write_text("{}")

    with pytest.raises(MissingAssetError, match=r"needs m/verification\.json, got none: python -m tools\.verif"):
        sample_file(folder)
    for target, told in (
        (outside, "leads out of m"),
        (tmp_path / "gone", "leads nowhere"),
        (tmp_path, "leads out of m"),
    ):
        sample.symlink_to(target)
        with pytest.raises(StrangerError, match=f"{SAMPLE} is a link that {told}"):
            sample_file(folder)
        sample.unlink()
    sample.write_text("{}")
    assert sample_file(folder) == sample


class _AskedError(Exception):
    """All models were asked for."""


def test_a_model_is_checked_for_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\nserving = { accelerator = "cpu" }\n'
        '[[models]]\nfolder = "iris"\n[runtime]\npython = "3.12"\narchitecture = "x86_64"\naccelerator = "openvino"\n'
    )
    asked = []

    def check(source: ModelSource, version: str, accelerator: str) -> None:
        asked.append((source.name, version, accelerator))
        if source.name == "iris":
            raise _AskedError

    monkeypatch.setattr("stacks.models_stack.check_model", check)
    monkeypatch.setattr("stacks.device_stacks.runtime_archive", wheel_archive)

    with pytest.raises(_AskedError):
        define_stacks(new_app(read_context(), outdir=tmp_path / "out"), load_stage("lab", tmp_path))

    assert asked == [("digits", "1.24.1", "cpu"), ("iris", "1.24.1", "openvino")]
