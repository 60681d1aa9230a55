"""Every combination of a model's switches synthesises through the policy gate, or says why it cannot."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from edge_constructs.model_verification import ImageUriError, triton_image
from edge_constructs.synth import PolicyGate, new_app, read_context
from stacks.edgewright import define_stacks

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


def model_template(folder: Path, **switches: str) -> dict[str, Any]:
    app = new_app(read_context(), outdir=folder / "out")
    gate = PolicyGate(app)
    define_stacks(app, load_stage("lab", stage_file(folder, **switches)))
    content: dict[str, Any] = json.loads((gate.synth() / "ModelDigits.template.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("compiler", "packager", "verify"),
    [
        combination
        for combination in product(["neo", "onnxruntime", "none"], ["own", "edge-manager"], ["none", "endpoint"])
        if combination[1] == "own" or combination[0] == "neo"
    ],
)
def test_each_combination_passes_the_gate_with_exactly_its_resources(
    tmp_path: Path, compiler: str, packager: str, verify: str
) -> None:
    content = model_template(tmp_path, compiler=compiler, packager=packager, verify=verify)

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


def test_without_the_sdk_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("edge_constructs.model_verification.distribution", absent)
    with pytest.raises(ImageUriError, match=r"pip install -r requirements-sagemaker.txt, or set models.verification"):
        triton_image("eu-west-1")
