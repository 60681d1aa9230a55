"""Thirty models in a stage: no function, no role and no topic of the devices' policy more than for one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from config.loader import load_stage, read_context
from config.places import PROJECT as ROOT
from edge_constructs.identities import LIMIT_CHARACTERS, characters
from edge_constructs.synth import PolicyGate, PolicyViolationError, new_app, room
from stacks.edgewright import define_stacks
from tests.many_models import names, stage_text, write_models

#: What nucleus lite has room for: 18 components, of which runtime, inference and the token exchange are three.
ON_LITE = 15


def synthesised(folder: Path, count: int, nucleus: str, patch: pytest.MonkeyPatch) -> Path:
    write_models(folder / "models", names(count))
    text = stage_text((ROOT / "config" / "twin.toml").read_text(encoding="utf-8"), names(count), nucleus)
    (folder / "twin.toml").write_text(text, encoding="utf-8")
    patch.setattr("stacks.models_stack.MODELS", folder / "models")
    app = new_app(read_context(), outdir=folder / "out")
    gate = PolicyGate(app)
    define_stacks(app, load_stage("twin", folder))
    return gate.synth()


@pytest.fixture(scope="module")
def assemblies(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of stages of so many models, for devices of the classic nucleus."""
    with pytest.MonkeyPatch.context() as patch:
        return {
            count: synthesised(tmp_path_factory.mktemp(f"of-{count}"), count, "classic", patch) for count in (1, 30, 31)
        }


def of_type(assembly: Path, kind: str = "") -> list[dict[str, Any]]:
    found = []
    for file in sorted(assembly.glob("*.template.json")):
        found += json.loads(file.read_text(encoding="utf-8"))["Resources"].values()
    return [each for each in found if kind in ("", each["Type"])]


def test_a_model_brings_no_function_and_no_role(assemblies: dict[int, Path]) -> None:
    for assembly in assemblies.values():
        assert len(of_type(assembly, "AWS::Lambda::Function")) == 10
        assert len(of_type(assembly, "AWS::IAM::Role")) == 20
        assert len(list(assembly.glob("*.template.json"))) == 8


def test_a_model_brings_six_resources(assemblies: dict[int, Path]) -> None:
    kinds = Counter(each["Type"] for each in of_type(assemblies[31]))
    kinds.subtract(each["Type"] for each in of_type(assemblies[30]))

    assert {kind: count for kind, count in kinds.items() if count} == {
        "Custom::ArtifactCopy": 1,
        "Custom::ModelPackage": 1,
        "Custom::ComponentVersion": 1,
        "AWS::CloudWatch::Alarm": 3,
    }


def test_what_a_model_brings_leaves_the_others_as_they_are(assemblies: dict[int, Path]) -> None:
    def resources(count: int) -> dict[str, Any]:
        content = json.loads((assemblies[count] / "Models.template.json").read_text(encoding="utf-8"))
        return dict(content["Resources"])

    before, after = resources(30), resources(31)

    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2


def test_the_devices_policy_does_not_grow(assemblies: dict[int, Path]) -> None:
    policies = {count: of_type(each, "AWS::IoT::Policy") for count, each in assemblies.items()}
    (one,), (thirty,) = (
        [each for each in policies[count] if each["Properties"]["PolicyName"] == "edgewright-twin-core-device"]
        for count in (1, 30)
    )

    assert one["Properties"] == thirty["Properties"]
    assert characters(thirty["Properties"]["PolicyDocument"]["Statement"]) < LIMIT_CHARACTERS


def test_as_many_as_nucleus_lite_has_room_for_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assembly = synthesised(tmp_path, ON_LITE, "any", monkeypatch)

    assert "0 places left" in room(assembly)


def test_one_more_than_nucleus_lite_has_room_for_is_refused_with_limit_count_and_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PolicyViolationError) as refused:
        synthesised(tmp_path, ON_LITE + 1, "any", monkeypatch)

    told = str(refused.value)
    assert "at most 18 components" in told
    assert "19 components" in told
    assert 'fleet.nucleus = "classic"' in told
