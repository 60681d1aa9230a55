"""From a model's source to its package."""

import json

from aws_cdk.assertions import Match, Template

from config.loader import load_stage
from config.places import MODELS
from tests.synthesis import assembly, resources, template


def test_source_is_copied_compiled_and_packaged_in_turn() -> None:
    stack = Template.from_json(template("twin", "Models"))
    copies = resources("twin", "Models", "Custom::ArtifactCopy")
    (copy,) = [each for each in copies if each["Properties"]["DestinationKey"].startswith("sources/digits/")]

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
            "Model": "digits",
            "Version": Match.string_like_regexp(r"^1\.\d+\.\d+$"),
        },
    )
    assert copy["Properties"]["DestinationKey"].endswith(f"{copy['Properties']['Sha256']}/model.tar.gz")


def test_manifest_is_what_the_models_folder_declares() -> None:
    packages = {each["Properties"]["Model"]: each for each in resources("twin", "Models", "Custom::ModelPackage")}
    package = packages["digits"]

    declared = json.loads((MODELS / "digits" / "model.json").read_text())
    assert json.loads(package["Properties"]["Manifest"]) == {**declared, "compiler": "neo"}


def test_dev_is_compiled_for_its_own_machine() -> None:
    (job,) = resources("dev", "Models", "Custom::NeoCompilation")

    assert job["Properties"]["TargetArch"] == "X86_64"


def test_the_signing_key_reaches_other_stacks_by_a_parameter_and_nothing_by_an_export() -> None:
    parameters = resources("twin", "Models", "AWS::SSM::Parameter")

    assert [parameter["Properties"]["Name"] for parameter in parameters] == ["/edgewright/twin/signing-key"]
    assert "Outputs" not in template("twin", "Models")


def test_archive_of_the_source_lies_in_the_assembly() -> None:
    assets = json.loads((assembly("twin") / "Models.assets.json").read_text())
    archives = [each for each in assets["files"].values() if each["source"]["path"].endswith("model.tar.gz")]

    assert len(archives) == len(load_stage("twin").models)
    assert all((assembly("twin") / archive["source"]["path"]).is_file() for archive in archives)


def test_only_the_stages_own_jobs_may_be_touched() -> None:
    told = json.dumps(resources("twin", "Models", "AWS::IAM::Role"))

    assert ":compilation-job/edgewright-twin-*" in told
    assert '"iam:PassedToService": "sagemaker.amazonaws.com"' in told


def test_a_model_that_is_taken_out_needs_no_function_of_another_stack() -> None:
    # A deletion does nothing, so CloudFormation need not ask.
    assert {each["DeletionPolicy"] for each in resources("twin", "Models", "Custom::ArtifactCopy")} == {"Retain"}
