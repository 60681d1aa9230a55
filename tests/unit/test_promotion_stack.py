"""A stage whose new models must show what they can first, and one that does not care."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from config.fleet import Promotion
from config.loader import ConfigurationError, load_stage, read_context
from config.places import PROJECT as ROOT
from edge_constructs.synth import new_app
from edge_handlers.custom_resource import Properties
from edge_handlers.deployment_health import HealthCheck, decide_on
from stacks import edgewright
from tests.handlers.fake_rollout import TARGET, FakeRollout
from tests.handlers.fake_s3 import FakeS3
from tests.synthesis import resources, template


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The assembly of the stage `twin` with a canary ring that decides."""
    stage = load_stage("twin").model_copy(update={"promotion": Promotion(rings=("canary",), memory_mb=200)})
    folder = tmp_path_factory.mktemp("promoted") / "out"
    app = new_app(read_context(), outdir=folder)
    edgewright.define_stacks(app, stage)
    app.synth()
    return folder


@cache
def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def of(promoted: Path, stack: str, kind: str) -> dict[str, dict[str, Any]]:
    found = _read(promoted / f"{stack}.template.json")["Resources"].items()
    return {name: each["Properties"] for name, each in found if each["Type"] == kind}


RUNTIME = "edgewright.twin.Runtime"


def merge_of(deployment: dict[str, Any]) -> str:
    """What the carrier of settings gets, with `@` for what only the deploy knows."""
    merge = deployment["Components"][RUNTIME]["ConfigurationUpdate"]["Merge"]
    return "".join(part if isinstance(part, str) else "@" for part in merge["Fn::Join"][1])


def models_in(merge: str) -> dict[str, Any]:
    """Model to its settings."""
    models: dict[str, Any] = json.loads(merge)["settings"]["edgewright.twin.Inference"]["models"]
    return models


def settings(deployment: dict[str, Any]) -> dict[str, Any]:
    """Model to its settings in a deployment."""
    return models_in(merge_of(deployment))


def test_models_of_the_ring_must_be_approved_and_of_no_other(promoted: Path) -> None:
    deployments = of(promoted, "Inference", "AWS::GreengrassV2::Deployment")

    for name, deployment in deployments.items():
        for model in settings(deployment).values():
            wanted = ("none", 200) if name.startswith("Canary") else (None, None)
            assert (model.get("approvedVersion"), model.get("candidateMegabytes")) == wanted


def test_the_rings_check_decides_on_its_models_by_the_stages_rules(promoted: Path) -> None:
    checks = {each["Ring"]: each for each in of(promoted, "Inference", "Custom::DeploymentHealth").values()}
    (deployment,) = [
        each
        for name, each in of(promoted, "Inference", "AWS::GreengrassV2::Deployment").items()
        if name.startswith("Canary")
    ]

    check = checks["canary"]
    versions = {name: each["ComponentVersion"] for name, each in deployment["Components"].items()}
    assert check["Candidates"]["digits"] == versions["edgewright.twin.model.Digits"]
    assert set(check["Candidates"]) == {model.folder for model in load_stage("twin").models}
    assert json.loads(check["Rules"])["memory_mb"] == 200
    assert check["DecisionSeconds"] == "1800"
    for ring in ("early", "all"):
        assert not {"Candidates", "Rules", "Bucket", "DecisionSeconds"} & set(checks[ring])


def test_the_first_ring_decides_on_what_the_template_says_and_approves_its_own_deployment(promoted: Path) -> None:
    (deployment,) = [
        each
        for name, each in of(promoted, "Inference", "AWS::GreengrassV2::Deployment").items()
        if name.startswith("Canary")
    ]
    (told,) = [each for each in of(promoted, "Inference", HealthCheck.TYPE).values() if each["Ring"] == "canary"]
    target = f"{TARGET}-canary"
    check = HealthCheck.of(Properties({**told, "DeploymentId": "new", "ThingGroupArn": target, "Bucket": "artifacts"}))
    rollout, s3 = FakeRollout(), FakeS3()
    rollout.deploy("of-all", TARGET)
    rollout.deploy("new", target)
    rollout.deployments["new"]["components"] = {
        name: {
            "componentVersion": each["ComponentVersion"],
            **(
                {"configurationUpdate": {"merge": merge_of(deployment), "reset": ["/settings"]}}
                if name == RUNTIME
                else {}
            ),
        }
        for name, each in deployment["Components"].items()
    }
    rollout.device("first", target, "SUCCEEDED")
    candidates = {"digits": check.candidates["digits"]}
    sketch = {"version": candidates["digits"], "inputs": 400, "agreed": 400, "labelled": 0, "right": 0}
    sketch |= {"current_right": 0, "ratios": {"0": 400}, "shifts": {}, "memory_mb": 9, "differed": []}

    decisions = []
    for heard in (b"{}", json.dumps({"candidate": sketch}).encode()):
        s3.put("artifacts", "promotions/digits/first.json", heard)
        decisions.append(decide_on(check, candidates, rollout, s3, since=0, is_last=False))

    assert decisions == [False, True]
    (made,) = [each for name, each in rollout.deployments.items() if name not in ("new", "of-all")]
    assert (made["targetArn"], rollout.deployments["of-all"]["isLatestForTarget"]) == (target, True)
    update = made["components"][RUNTIME]["configurationUpdate"]
    assert {name: each["approvedVersion"] for name, each in models_in(update["merge"]).items()} == check.candidates
    assert update["reset"] == ["/settings"]


def test_heartbeats_with_sketches_are_stored_below_one_prefix_that_the_check_may_read(promoted: Path) -> None:
    rules = of(promoted, "Observability", "AWS::IoT::TopicRule")
    (rule,) = [each["TopicRulePayload"] for each in rules.values() if each["RuleName"] == "edgewright_twin_Candidates"]
    assert rule["Sql"] == "SELECT * FROM 'edgewright/twin/heartbeat' WHERE candidate.inputs >= 0"
    assert rule["Actions"][0]["S3"]["Key"] == "promotions/${candidate.model}/${clientid()}.json"

    added = _statements(promoted) - _statements(None)
    assert len(added) == 3
    text = " ".join(sorted(added))
    assert text.count("/promotions/*") == 1
    assert text.count("s3:GetObject") == 1
    assert "s3:ListBucket" in text
    assert "kms:Decrypt" in text
    assert "s3:Put" not in text


def _statements(promoted: Path | None) -> set[str]:
    """Of the role of the function that waits for health; without an assembly, that of the committed stage."""
    found = (
        template("twin", "Inference")["Resources"]
        if promoted is None
        else _read(promoted / "Inference.template.json")["Resources"]
    )
    roles = [(name, each) for name, each in found.items() if each["Type"] == "AWS::IAM::Role"]
    (role,) = [each for name, each in roles if name.startswith("HealthHandlerRole")]
    return {
        json.dumps(statement, sort_keys=True)
        for policy in role["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    }


def test_a_stage_that_does_not_say_so_has_nothing_of_it() -> None:
    for check in resources("twin", "Inference", "Custom::DeploymentHealth"):
        assert not {"Candidates", "Rules", "Bucket", "DecisionSeconds"} & set(check["Properties"])
    assert "approvedVersion" not in json.dumps(template("twin", "Inference"))
    assert "promotions/" not in json.dumps(template("twin", "Observability"))


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('rings = ["canary"]\nagreement = 0\nlatency_ratio = 0', "must be above 0, got 0 for all of them"),
        ('rings = ["canary"]\nzone = 0.99', "zone must be below agreement, got 0.99 and 0.95"),
        ('rings = ["all"]', "promotion.rings must be among health.rings, since the deploy waits for both, got all"),
        ('rings = ["canary"]\nminutes = 40', "must be at most 50 together, got 60"),
        ("agreement = 1.0", "agreement"),
        ('rings = ["first"]', "rings"),
    ],
)
def test_what_cannot_be_kept_is_refused_when_the_stage_is_read(tmp_path: Path, table: str, told: str) -> None:
    text = (ROOT / "config" / "dev.toml").read_text(encoding="utf-8")
    (tmp_path / "lab.toml").write_text(f'{text}\n[health]\nrings = ["canary"]\n[promotion]\n{table}\n')

    with pytest.raises(ConfigurationError, match=told):
        load_stage("lab", tmp_path)


def test_rules_that_refuse_too_many_good_models_are_refused_at_synth() -> None:
    stage = load_stage("twin").model_copy(update={"promotion": Promotion(rings=("canary",), inputs=50)})

    with pytest.raises(ValueError, match=r"promotion\.inputs must be at least 816, so that agreement is decided"):
        edgewright.define_stacks(new_app(read_context()), stage)
