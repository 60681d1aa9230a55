"""Every combination of a stage's switches synthesises through the policy gate, or is refused with the reason.

A stage's models do not know its other switches, so one app of each nucleus, architecture and registry holds a
models' stack of each combination of compiler, packager and verification: twelve apps, 72 combinations.
"""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage, read_context
from config.model import Model
from config.stage import Stage
from edge_constructs.synth import PolicyGate, new_app
from stacks import edgewright
from stacks.models_stack import ModelsStack
from tests.wheel_archive import wheel_archive
from tools.compliance_findings import BIN, Assembly, accept, lint, read_exceptions

IMAGE = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-tritonserver:26.05-py3-cpu"
REGISTRIES, NUCLEI, MACHINES = ("iot", "sagemaker"), ("classic", "lite", "docker"), ("x86_64", "aarch64")
COMPILERS, PACKAGERS, CHECKS = ("neo", "onnxruntime", "none"), ("own", "edge-manager"), ("none", "endpoint")
APPS = list(product(REGISTRIES, NUCLEI, MACHINES))
PYTHON = {"classic": "3.12", "docker": "3.13", "lite": "3.12"}
MODELS = [
    each
    for each in product(COMPILERS, PACKAGERS, CHECKS)
    if (each[1] == "own" or each[0] == "neo") and (each[0] != "neo" or each[2] == "none")
]


def stage_file(folder: Path, *, region: str = "eu-west-1", **switches: str) -> Path:
    """A stage with one model and the given switches."""
    chosen = {"registry": "iot", "nucleus": "classic", "machine": "x86_64", "compiler": "neo", "packager": "own"}
    chosen |= {"verify": "none"} | switches
    (folder / "lab.toml").write_text(
        f'region = "{region}"\n[[models]]\nfolder = "digits"\ncompiler = "{chosen["compiler"]}"\n'
        f'packager = "{chosen["packager"]}"\nverify = "{chosen["verify"]}"\n'
        f'[models.verification]\nimage = "{IMAGE}"\n'
        f'[fleet]\nregistry = "{chosen["registry"]}"\ndevices = ["line-1"]\n'
        f'[runtime]\npython = "{PYTHON[chosen["nucleus"]]}"\narchitecture = "{chosen["machine"]}"\n'
        f'[edge_server.nucleus]\nkind = "{chosen["nucleus"]}"\nsha256 = "{"5" * 64}"\n',
        encoding="utf-8",
    )
    return folder


def kinds(assembly: Path, stack: str) -> set[str]:
    content: dict[str, Any] = json.loads((assembly / f"{stack}.template.json").read_text(encoding="utf-8"))
    return {resource["Type"] for resource in content["Resources"].values()}


@pytest.fixture(autouse=True)
def wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels of any device: set-up makes only the ones that the stages need."""
    monkeypatch.setattr("stacks.device_stacks.runtime_archive", wheel_archive)
    monkeypatch.setattr("stacks.models_stack.compiler_archive", wheel_archive)


@pytest.fixture
def more_models(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str, str]]:
    """Let an app hold one models' stack more of each combination; stack to combination."""
    combinations = {f"Models{number}": each for number, each in enumerate(MODELS)}
    define_one = ModelsStack.__init__

    def define(self: ModelsStack, scope: Any, construct_id: str, *, stage: Stage, **needed: Any) -> None:
        define_one(self, scope, construct_id, stage=stage, **needed)
        if construct_id in combinations:
            return
        for name, (compiler, packager, verify) in combinations.items():
            switches = {"compiler": compiler, "packager": packager, "verify": verify}
            model = Model.model_validate({**stage.models[0].model_dump(), **switches})
            ModelsStack(scope, name, stage=stage.model_copy(update={"models": (model,)}), **needed)

    monkeypatch.setattr(ModelsStack, "__init__", define)
    return combinations


def synthesised(stage: Stage, folder: Path) -> Path:
    app = new_app(read_context(), outdir=folder)
    gate = PolicyGate(app)
    edgewright.define_stacks(app, stage)
    return gate.synth()


@pytest.mark.parametrize(("registry", "nucleus", "machine"), APPS)
def test_every_combination_passes_the_gate_with_exactly_its_resources(
    tmp_path: Path, more_models: dict[str, tuple[str, str, str]], registry: str, nucleus: str, machine: str
) -> None:
    stage = load_stage("lab", stage_file(tmp_path, registry=registry, nucleus=nucleus, machine=machine))

    assembly = synthesised(stage, tmp_path / "out")

    assert ("AWS::SageMaker::DeviceFleet" in kinds(assembly, "Fleet")) == (registry == "sagemaker")
    assert ("Custom::SagemakerDevices" in kinds(assembly, "Fleet")) == (registry == "sagemaker")
    assert stage.instance_type in (assembly / "EdgeServer.template.json").read_text()
    for stack, (compiler, packager, verify) in more_models.items():
        found = kinds(assembly, stack)
        assert ("Custom::NeoCompilation" in found) == (compiler == "neo"), stack
        assert ("Custom::OnnxCompilation" in found) == (compiler == "onnxruntime"), stack
        assert ("Custom::EdgePackaging" in found) == (packager == "edge-manager"), stack
        assert ("Custom::ModelVerification" in found) == (verify == "endpoint"), stack


def test_an_accelerator_is_told_to_devices_and_watched(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[runtime]\naccelerator = "openvino"\n[[models]]\nfolder = "digits"\n'
        '[[models]]\nfolder = "iris"\nserving = { accelerator = "cpu" }\n'
    )

    assembly = synthesised(load_stage("lab", tmp_path), tmp_path / "out")

    assert (assembly / "artifacts" / "3.11-x86_64-False-openvino").is_dir()
    told = re.findall(r'accelerator[\\": ]+(\w+)', (assembly / "Inference.template.json").read_text())
    assert told == ["openvino", "cpu"] * 3, "a deployment each ring"
    content = json.loads((assembly / "Observability.template.json").read_text())["Resources"].values()
    (alarm,) = [
        each["Properties"] for each in content if each["Properties"].get("AlarmName", "").endswith("-accelerator")
    ]
    assert (alarm["MetricName"], alarm["Statistic"], alarm["Threshold"]) == ("AcceleratorFallbacks", "Maximum", 0)
    (rule,) = [
        each["Properties"] for each in content if each["Properties"].get("RuleName") == "edgewright_lab_Accelerators"
    ]
    assert "accelerator.fallbacks >= 0" in rule["TopicRulePayload"]["Sql"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[runtime]\naccelerator = "openvino"\narchitecture = "aarch64"', "wheels for x86_64 and Python 3.11"),
        ('[runtime]\naccelerator = "openvino"\npython = "3.14"', "only, got x86_64 and 3.14: set accelerator to cpu"),
        ('[runtime]\naccelerator = "tpu"', "'cpu', 'openvino', 'cuda' or 'tensorrt'"),
        ('compiler = "onnxruntime"\n[runtime]\naccelerator = "cuda"', "set it to none for digits"),
        ('serving = { accelerator = "cuda" }', r"must be cpu, as runtime.accelerator, got 'cuda'"),
    ],
)  # fmt: skip
def test_an_accelerator_that_devices_could_not_have_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "lab.toml").write_text(f'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n{text}\n')

    with pytest.raises(ConfigurationError, match=told):
        load_stage("lab", tmp_path)


@pytest.mark.long
@pytest.mark.skipif(not (BIN / "cfn-lint").is_file(), reason="make setup-compliance installs cfn-lint")
@pytest.mark.parametrize(("registry", "nucleus", "machine"), APPS)
@pytest.mark.usefixtures("more_models")
def test_cfn_lint_finds_nothing_in_any_combination(tmp_path: Path, registry: str, nucleus: str, machine: str) -> None:
    stage = load_stage("lab", stage_file(tmp_path, registry=registry, nucleus=nucleus, machine=machine))
    made = Assembly(stage.name, stage.region, synthesised(stage, tmp_path / "out"))

    found = lint(made.region, {template.resolve(): made for template in made.templates})

    # Exceptions that cover nothing here belong to other stages.
    accepted = accept(found, read_exceptions())
    assert [each for each in accepted if each.is_open and each.stage == stage.name] == []


def test_every_combination_of_a_file_is_taken_or_refused_with_the_reason(tmp_path: Path) -> None:
    refused = 0
    for registry, nucleus, machine, compiler, packager, verify in product(
        REGISTRIES, NUCLEI, MACHINES, COMPILERS, PACKAGERS, CHECKS
    ):
        switches = {"registry": registry, "nucleus": nucleus, "machine": machine}
        switches |= {"compiler": compiler, "packager": packager, "verify": verify}
        stage_file(tmp_path, **switches)
        if (compiler, packager, verify) in MODELS:
            assert load_stage("lab", tmp_path).fleet.registry == registry
            continue
        refused += 1
        reason = "verify endpoint runs what neo" if compiler == "neo" else "edge-manager packs what neo compiled"
        with pytest.raises(ConfigurationError, match=reason):
            load_stage("lab", tmp_path)
    assert refused == 72


@pytest.mark.parametrize(
    ("region", "switches", "message"),
    [
        ("eu-north-1", {}, "region must have AWS IoT Greengrass V2, one of ap-northeast-1, "),
        ("eu-west-2", {"registry": "sagemaker"}, "fleet.registry sagemaker needs a region with SageMaker Edge Manager"),
        (
            "ap-south-1",
            {"registry": "sagemaker", "packager": "edge-manager"},
            "packager edge-manager of digits and fleet.registry sagemaker needs a region with SageMaker Edge Manager, "
            "one of ap-northeast-1, eu-central-1, eu-west-1, us-east-1, us-east-2, us-west-2, got ap-south-1",
        ),
    ],
)
def test_a_region_without_what_is_switched_on_is_refused_with_those_that_have_it(
    tmp_path: Path, region: str, switches: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_stage("lab", stage_file(tmp_path, region=region, **switches))


@pytest.mark.parametrize("device", ["line_1", "line:1", "-line", "line-", "l" * 64])
def test_a_device_fleet_takes_no_thing_that_it_cannot_name(tmp_path: Path, device: str) -> None:
    file = stage_file(tmp_path, registry="sagemaker") / "lab.toml"
    file.write_text(file.read_text().replace("line-1", device))

    with pytest.raises(ConfigurationError, match="inner dashes with registry sagemaker: "):
        load_stage("lab", tmp_path)
    file.write_text(file.read_text().replace('registry = "sagemaker"', 'registry = "iot"'))
    assert load_stage("lab", tmp_path).fleet.devices == (device,)


def test_the_names_of_a_file_are_checked_too(tmp_path: Path) -> None:
    file = stage_file(tmp_path, registry="sagemaker") / "lab.toml"
    file.write_text(file.read_text().replace("[fleet]\n", '[fleet]\nfile = "lab.csv"\n'))
    (tmp_path / "lab.csv").write_text("device\nline_2\n")

    with pytest.raises(ConfigurationError, match=r"lab.csv: devices must have names .* registry sagemaker: line_2"):
        load_stage("lab", tmp_path)
