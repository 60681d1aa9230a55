"""The pipeline inside AWS: off by default, through the policy gate when on, and with the deployer's rights only."""

import json
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage, read_context, stage_names
from edge_constructs.synth import PolicyGate, new_app
from stacks.edgewright import define_stacks
from tools.deployer_policy import policy_for

CONNECTION = "arn:aws:codeconnections:eu-west-1:111122223333:connection/01234567-89ab-cdef-0123-456789abcdef"
PIPELINE = f'''connection_arn = "{CONNECTION}"
repository = "plant/fleet"'''
STAGE = """region = "eu-west-1"
[[models]]
folder = "digits"
[runtime]
python = "host"
architecture = "host"
[pipeline]
"""


def stage_file(folder: Path, pipeline: str) -> Path:
    (folder / "lab.toml").write_text(STAGE + pipeline, encoding="utf-8")
    return folder


def synthesised(folder: Path, pipeline: str = PIPELINE, *, schemas: bool = False) -> dict[str, Any]:
    """Resources of the pipeline's stack, by logical id, after all packs and perhaps CloudFormation's schemas."""
    app = new_app(read_context(), outdir=folder / "out")
    gate = PolicyGate(app, templates=schemas)
    define_stacks(app, load_stage("lab", stage_file(folder, pipeline)))
    content = json.loads((gate.synth() / "Pipeline.template.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["Resources"]
    return found


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return synthesised(tmp_path_factory.mktemp("pipeline"), schemas=True)


def of_type(resources: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: each["Properties"] for name, each in resources.items() if each["Type"] == kind}


def steps(resources: dict[str, Any]) -> list[str]:
    (pipeline,) = of_type(resources, "AWS::CodePipeline::Pipeline").values()
    return [stage["Name"] for stage in pipeline["Stages"]]


def test_no_stage_has_one_unless_it_says_so() -> None:
    assert [load_stage(stage).pipeline for stage in stage_names()] == [None] * len(stage_names())


def test_a_person_agrees_between_the_checks_and_the_deploy(resources: dict[str, Any]) -> None:
    assert steps(resources) == ["Source", "Check", "Approve", "Deploy"]


def test_the_approval_can_be_left_out(tmp_path: Path) -> None:
    resources = synthesised(tmp_path, f"{PIPELINE}\napproval = false")

    assert steps(resources) == ["Source", "Check", "Deploy"]


def test_executions_wait_for_each_other_and_the_history_comes_along(resources: dict[str, Any]) -> None:
    (pipeline,) = of_type(resources, "AWS::CodePipeline::Pipeline").values()

    (source,) = pipeline["Stages"][0]["Actions"]
    assert source["Configuration"]["OutputArtifactFormat"] == "CODEBUILD_CLONE_REF"
    assert source["Configuration"]["FullRepositoryId"] == "plant/fleet"
    assert pipeline["ExecutionMode"] == "QUEUED"
    assert pipeline["ArtifactStore"]["EncryptionKey"]["Type"] == "KMS"


def test_the_deploy_may_do_what_the_deployers_policy_says_and_the_checks_may_not(resources: dict[str, Any]) -> None:
    may_assume = {}
    for name, role in of_type(resources, "AWS::IAM::Role").items():
        (policy,) = role["Policies"]
        may_assume[name] = [
            resource
            for statement in policy["PolicyDocument"]["Statement"]
            if "sts:AssumeRole" in statement["Action"]
            for resource in statement["Resource"]
        ]
    (deployer,) = [name for name, allowed in may_assume.items() if allowed]
    (wanted,) = policy_for("<AWS::AccountId>", "eu-west-1")["Statement"]

    filled = [
        "".join(part if isinstance(part, str) else f"<{part['Ref']}>" for part in each["Fn::Join"][1])
        for each in may_assume[deployer]
    ]
    assert [each.replace("<AWS::Partition>", "aws") for each in filled] == wanted["Resource"]
    assert deployer.startswith("PipelineDeployRole")


def test_it_deploys_every_stack_but_its_own(resources: dict[str, Any], tmp_path: Path) -> None:
    projects = of_type(resources, "AWS::CodeBuild::Project")
    (deploy,) = [each for name, each in projects.items() if name.startswith("PipelineDeploy")]
    variables = {each["Name"]: each["Value"] for each in deploy["Environment"]["EnvironmentVariables"]}

    assert variables["STAGE"] == "lab"
    assert " ".join(variables["STACKS"].split()) == (
        "Storage Identity Fleet Provisioning EdgeServer Models Inference Observability"
    )
    assert all(not each["Environment"]["PrivilegedMode"] for each in projects.values())


def test_projects_run_make_targets_that_exist(resources: dict[str, Any]) -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")
    specifications = [
        json.loads(each["Source"]["BuildSpec"]) for each in of_type(resources, "AWS::CodeBuild::Project").values()
    ]
    commands = [each for found in specifications for each in found["phases"]["build"]["commands"]]

    assert len(commands) == 7
    for command in commands:
        make, target, *_ = command.split()
        assert make == "make"
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ('repository = "plant/fleet"', "pipeline.connection_arn"),
        (PIPELINE.replace("codeconnections", "iam"), "pipeline.connection_arn"),
        (PIPELINE.replace("plant/fleet", "fleet"), "pipeline.repository"),
        (f'{PIPELINE}\nbranch = "main; make deploy"', "pipeline.branch"),
        (f"{PIPELINE}\nstages = 2", "pipeline.stages"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, pipeline: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_stage("lab", stage_file(tmp_path, pipeline))
