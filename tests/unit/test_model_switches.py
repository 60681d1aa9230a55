"""Every combination of a model's switches synthesises through the policy gate, or says why it cannot."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from config.stage import Stage
from edge_constructs.edge_assets import MissingAssetError
from edge_constructs.model_verification import ImageUriError, triton_image
from edge_constructs.reproducible_zip import StrangerError
from edge_constructs.synth import PolicyGate, new_app, read_context
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


def test_what_neo_makes_of_onnx_is_served_by_no_image(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"neo makes a library for DLR and TVM of it, for which AWS has no serving"
    ):
        load_stage("lab", stage_file(tmp_path, compiler="neo", verify="endpoint"))


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
    monkeypatch.setattr("edge_constructs.model_verification._ROOT", tmp_path)
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
