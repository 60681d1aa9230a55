"""From a model's source to its package."""

import json

import pytest
from aws_cdk.assertions import Match, Template

from edge_constructs.edge_assets import MODELS
from tests.synthesis import assembly, resources, stacks, template


def test_source_is_copied_compiled_and_packaged_in_turn() -> None:
    stack = Template.from_json(template("twin", "ModelDigits"))
    (copy,) = resources("twin", "ModelDigits", "Custom::ArtifactCopy")

    stack.has_resource_properties(
        "Custom::NeoCompilation",
        {
            "JobNamePrefix": "edgewright-twin-digits",
            "SourceUri": {"Fn::GetAtt": [Match.any_value(), "Uri"]},
            "Framework": "ONNX",
            "DataInputConfig": '{"image": [1, 1, 8, 8]}',
            "TargetOs": "LINUX",
        },
    )
    stack.has_resource_properties(
        "Custom::ModelPackage",
        {
            "CompiledUri": {"Fn::GetAtt": [Match.any_value(), "ArtifactUri"]},
            "Name": "Digits",
            "Prefix": "models/digits",
            "Version": Match.string_like_regexp(r"^1\.\d+\.\d+$"),
        },
    )
    assert copy["Properties"]["DestinationKey"].startswith("sources/digits/")
    assert copy["Properties"]["DestinationKey"].endswith(f"{copy['Properties']['Sha256']}/model.tar.gz")


def test_manifest_is_what_the_models_folder_declares() -> None:
    (package,) = resources("twin", "ModelDigits", "Custom::ModelPackage")

    declared = json.loads((MODELS / "digits" / "model.json").read_text())
    assert json.loads(package["Properties"]["Manifest"]) == {**declared, "compiler": "neo"}


def test_dev_is_compiled_for_its_own_machine() -> None:
    (job,) = resources("dev", "ModelDigits", "Custom::NeoCompilation")

    assert job["Properties"]["TargetArch"] == "X86_64"


def test_package_reaches_other_stacks_by_a_parameter_and_no_export() -> None:
    parameters = resources("twin", "ModelDigits", "AWS::SSM::Parameter")

    assert [parameter["Properties"]["Name"] for parameter in parameters] == [
        "/edgewright/twin/models/digits/package-uri",
        "/edgewright/twin/models/digits/signing-key",
    ]
    assert "Outputs" not in template("twin", "ModelDigits")


def test_archive_of_the_source_lies_in_the_assembly() -> None:
    assets = json.loads((assembly("twin") / "ModelDigits.assets.json").read_text())
    (archive,) = [each for each in assets["files"].values() if each["source"]["path"].endswith("model.tar.gz")]

    assert (assembly("twin") / archive["source"]["path"]).is_file()


def test_only_the_models_own_jobs_may_be_touched() -> None:
    told = json.dumps(resources("twin", "ModelDigits", "AWS::IAM::Role"))

    assert ":compilation-job/edgewright-twin-digits-*" in told
    assert '"iam:PassedToService": "sagemaker.amazonaws.com"' in told


@pytest.mark.parametrize("stage", ["dev", "twin", "prod"])
def test_a_model_that_is_taken_out_holds_nothing_of_the_stage_fast(stage: str) -> None:
    for name in (each for each in stacks(stage) if each.startswith("Model")):
        assert "Fn::ImportValue" not in json.dumps(template(stage, name)), name
        # Its copies' function is another stack's, which may be gone when this one is destroyed.
        assert {each["DeletionPolicy"] for each in resources(stage, name, "Custom::ArtifactCopy")} == {"Retain"}
