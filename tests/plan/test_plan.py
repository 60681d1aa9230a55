"""Plans as they were last agreed on, and what ends with which exit code.

UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/plan     accepts what is there now
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from config.operations import Announced
from tests.plan.sample_assembly import (
    CHANGES,
    Change,
    PlannedFleet,
    move_to_canary,
    remove_component,
    remove_model,
)
from tools.cloud_assembly import read_assembly
from tools.plan import UNANNOUNCED, main, unannounced
from tools.plan_changes import Plan, compare

GOLDEN = Path(__file__).parent / "golden"
FAILING = {"removal", "replacement", "reused-version", "list-emptied", "row-removed", "row-moved", "region-changed"}
FAILING |= {"stage-renamed", "model-removed"}


def assemblies(folder: Path, change: str) -> tuple[Path, Path]:
    before, after = PlannedFleet(folder / "before"), PlannedFleet(folder / "after")
    CHANGES[change](after)
    return before.write(), after.write()


def planned(folder: Path, change: str) -> Plan:
    before, after = assemblies(folder, change)
    return compare(read_assembly(before), read_assembly(after))


def assert_agreed(name: str, now: str) -> None:
    agreed = GOLDEN / f"{name}.md"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        GOLDEN.mkdir(exist_ok=True)
        agreed.write_text(now, encoding="utf-8")
    assert now == agreed.read_text(encoding="utf-8"), "if it is meant: UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/plan"


@pytest.mark.parametrize("change", CHANGES)
def test_plan_is_the_agreed_one(change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = assemblies(tmp_path, change)
    markdown = tmp_path / "plan.md"

    code = main(["--before", str(before), "--after", str(after), "--markdown", str(markdown), "--stage", "plant"])

    now = f"{capsys.readouterr().out}\n{markdown.read_text()}".replace(str(tmp_path), "FOLDER")
    assert_agreed(change, now)
    assert code == (UNANNOUNCED if change in FAILING else 0)


@pytest.mark.parametrize("change", CHANGES)
def test_versions_that_a_custom_resource_makes_are_planned_in_the_same_way(change: str, tmp_path: Path) -> None:
    def kept(folder: Path, change: str | None) -> Path:
        fleet = PlannedFleet(folder)
        if change:
            CHANGES[change](fleet)
        for resource in fleet.resources.values():
            if resource["Type"] == "AWS::GreengrassV2::ComponentVersion":
                resource["Type"] = "Custom::ComponentVersion"
        return fleet.write()

    (tmp_path / "own").mkdir()
    before, after = kept(tmp_path / "before", None), kept(tmp_path / "after", change)
    plan, agreed = compare(read_assembly(before), read_assembly(after)), planned(tmp_path / "own", change)

    assert plan.targets == agreed.targets
    assert plan.reused_versions == agreed.reused_versions
    assert [(each.resource, each.kind, each.because, each.expected) for each in plan.replaced] == [
        (each.resource, each.kind, each.because, each.expected) for each in agreed.replaced
    ]


def test_no_version_is_taken_in_another_region(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    for change in ("reused-version", "region-changed"):
        CHANGES[change](after)

    assert compare(read_assembly(before.write()), read_assembly(after.write())).reused_versions == ()


def test_code_only_ships_the_code_and_restarts_only_it(tmp_path: Path) -> None:
    (target,) = planned(tmp_path, "code-only").targets

    assert [each.name for each in target.upgraded] == ["plant.Inference"]
    assert target.restarted == ("plant.Inference",)
    assert target.bytes_per_device == (tmp_path / "after" / "code.zip").stat().st_size
    assert target.fleet_bytes == 120 * target.bytes_per_device
    assert target.rollout_minutes == 3


def test_model_only_finds_the_model_behind_the_parameter(tmp_path: Path) -> None:
    (target,) = planned(tmp_path, "model-only").targets

    assert [each.name for each in target.upgraded] == ["plant.Model"]
    assert target.bytes_per_device == (tmp_path / "after" / "model.zip").stat().st_size


def exchanged(folder: Path, *, kept: int, gone: int, come: int) -> Plan:
    """Besides the sample's three components some that stay, go and come."""
    before, after = PlannedFleet(folder / "before"), PlannedFleet(folder / "after")
    for number in range(kept + gone + come):
        if number < kept + gone:
            before.deploy(f"aws.greengrass.Tool{number}", "2.0.0")
        if number < kept or number >= kept + gone:
            after.deploy(f"aws.greengrass.Tool{number}", "2.0.0")
    return compare(read_assembly(before.write()), read_assembly(after.write()))


@pytest.mark.parametrize(("come", "refused"), [(3, False), (4, True)])
def test_what_goes_counts_until_it_is_gone(tmp_path: Path, come: int, refused: bool) -> None:
    plan = exchanged(tmp_path, kept=10, gone=3, come=come)

    complaints = unannounced(plan, Announced(removals=("aws.greengrass.Tool*",)))

    assert plan.targets[0].places == 3 + 10 + 3 + come
    assert [each.partition(",")[0] for each in complaints] == [
        "a device of plant has 20 components while it updates"
    ] * refused


def test_an_archive_needs_the_disk_for_itself_and_for_what_it_holds(tmp_path: Path) -> None:
    (target,) = planned(tmp_path, "code-only").targets
    archive = tmp_path / "after" / "code.zip"
    with zipfile.ZipFile(archive) as content:
        held = sum(entry.file_size for entry in content.infolist())

    assert target.disk_per_device == archive.stat().st_size + held > target.bytes_per_device


def test_an_announced_removal_passes(tmp_path: Path) -> None:
    plan = planned(tmp_path, "removal")

    assert unannounced(plan, Announced(removals=("plant.Model",))) == []


def test_an_announced_replacement_passes(tmp_path: Path) -> None:
    plan = planned(tmp_path, "replacement")

    complaints = unannounced(plan, Announced(replacements=("Plant/Server",)))

    assert [each.split(" ")[0] for each in complaints] == ["Plant/Log"]
    assert unannounced(plan, Announced(replacements=("Plant/Server", "Plant/Log"))) == []


def test_a_target_without_its_deployment_must_be_announced(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    del after.resources["Deployment"]
    plan = compare(read_assembly(before.write()), read_assembly(after.write()))

    assert unannounced(plan, Announced()) == [
        "target plant loses its deployment: list it in announced.removals",
    ]
    assert unannounced(plan, Announced(removals=("plant",))) == []


def test_announced_devices_pass(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    del after.devices["plant-press-7"], after.devices["plant-press-8"]
    after.devices["plant-press-9"] = "canary"
    plan = compare(read_assembly(before.write()), read_assembly(after.write()))

    assert unannounced(plan, Announced(leaving=("plant-press-7",))) == [
        "1 device leaves (plant-press-8): list it in announced.leaving",
        "1 device moves to ring canary (plant-press-9): list it in announced.moving",
    ]
    assert unannounced(plan, Announced(leaving=("plant-press-[78]",), moving=("plant-press-9",))) == []
    assert unannounced(plan, Announced(leaving=("plant-*",), moving=("plant-*",))) == []


def test_an_announced_stack_that_stays_passes(tmp_path: Path) -> None:
    plan = planned(tmp_path, "model-removed")

    assert unannounced(plan, Announced(removals=("plant.Model", "plant-model"))) == []


def test_a_stack_that_holds_what_the_deploy_takes_away_must_go_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    for fleet in (before, after):
        fleet.outputs = {"Role": {"Value": "role", "Export": {"Name": "plant:Role"}}}
    before.model_resources["Job"] = {
        "Type": "Custom::NeoCompilation",
        "Properties": {"Role": {"Fn::ImportValue": "plant:Role"}, "Bucket": {"Fn::ImportValue": "plant:Bucket"}},
    }
    before.outputs["Bucket"] = {"Value": "bucket", "Export": {"Name": "plant:Bucket"}}
    remove_model(after)

    main(["--before", str(before.write()), "--after", str(after.write())])

    assert (
        "  destroy it by hand before the deploy, which fails as long as it uses plant:Bucket:\n"
        "    aws cloudformation delete-stack --region us-east-1 --stack-name plant-model\n"
    ) in capsys.readouterr().out


def test_ten_thousand_devices_are_counted_and_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    before.devices = {f"plant-line-{number}": "all" for number in range(10_000)}
    after.devices = {}

    main(["--before", str(before.write()), "--after", str(after.write())])

    text = capsys.readouterr().out
    assert "devices: 10000 leave (10000 → 0)\n" in text
    assert "  - and 9990 more: --json lists them\n" in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda fleet: fleet.properties("Registry").pop("ListKey"), "Plant/Registry.ListKey is required, got nothing"),
        (lambda fleet: fleet.properties("Registry").pop("Rings"), "Plant/Registry.Rings is required, got nothing"),
        (
            lambda fleet: fleet.properties("Registry").update(ListKey="elsewhere.json"),
            "Plant/Registry.ListKey must be an asset of the assembly, got elsewhere.json",
        ),
        (
            lambda fleet: fleet.properties("Registry").update(ListSha256="0" * 64),
            "must be " + "0" * 64,
        ),
        (
            lambda fleet: fleet.properties("Registry").update(Rings='{"all": "plant", "early": "plant-early"}'),
            "must be of all, early, got canary",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_no_empty_list(
    damage: Change, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    move_to_canary(after)
    folder = after.write()
    damage(after)
    template = folder / "Plant.template.json"
    content = json.loads(template.read_text())
    content["Resources"]["Registry"] = after.resources["Registry"]
    template.write_text(json.dumps(content))

    assert main(["--before", str(before.write()), "--after", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"plan: {folder}: the list of devices cannot be read: ")
    assert says in error


@pytest.mark.parametrize("file", ["devices.json", "Plant.template.json", "manifest.json"])
def test_a_damaged_file_is_named(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = PlannedFleet(tmp_path / "before").write(), PlannedFleet(tmp_path / "after").write()
    (after / file).write_text("{")

    assert main(["--before", str(before), "--after", str(after)]) == 1
    error = capsys.readouterr().err
    if file == "devices.json":
        assert error.startswith(f"plan: {after}: the list of devices cannot be read: sha-256 of s3://cdk-assets/")
    else:
        assert error.startswith(f"plan: {after}: {file} must be JSON: ")


def test_a_manifest_of_another_form_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = PlannedFleet(tmp_path / "before").write(), PlannedFleet(tmp_path / "after").write()
    (after / "manifest.json").write_text("[]")

    assert main(["--before", str(before), "--after", str(after)]) == 1
    assert f"plan: {after}: manifest.json must be a JSON object, got list\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("components", "place"),
    [
        ({"Ref": "Components"}, "Components"),
        ({"Fn::FindInMap": ["Components", "plant", "all"]}, "Components"),
        ({"Fn::Transform": {"Name": "Macro", "Parameters": {}}}, "Components"),
        (["plant.Model"], "Components"),
        ({"plant.Model": {"Ref": "Model"}}, "Components.plant.Model"),
        ({"plant.Model": "1.0.1"}, "Components.plant.Model"),
    ],
)
def test_components_that_only_a_deploy_knows_are_named(
    components: Any, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    after.properties("Deployment")["Components"] = components

    assert main(["--before", str(before.write()), "--after", str(after.write())]) == 1
    error = capsys.readouterr().err
    assert f"after: Plant/Deployment.{place}: must be an object in the template, got " in error


def test_of_what_a_condition_chooses_the_first_that_names_something_is_planned(tmp_path: Path) -> None:
    fleet = PlannedFleet(tmp_path / "fleet")
    components = fleet.properties("Deployment")["Components"]
    chosen = {**components, "plant.Model": {"Fn::If": ["New", components["plant.Model"], {"Ref": "AWS::NoValue"}]}}
    fleet.properties("Deployment")["Components"] = {"Fn::If": ["On", {"Ref": "AWS::NoValue"}, chosen]}

    target = read_assembly(fleet.write()).targets["plant"]

    assert target.components == {name: each["ComponentVersion"] for name, each in components.items()}


def test_a_rate_that_only_a_deploy_knows_leaves_the_minutes_open(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    after.properties("Deployment")["IotJobConfiguration"]["JobExecutionsRolloutConfig"] = {
        "MaximumPerMinute": {"Ref": "Rate"}
    }

    (target,) = compare(read_assembly(before.write()), read_assembly(after.write())).targets

    assert (target.devices, target.rollout_minutes) == (120, None)


def test_deployments_without_a_registry_are_no_fleet_of_zero_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleets = [PlannedFleet(tmp_path / name) for name in ("before", "after")]
    for fleet in fleets:
        del fleet.resources["Registry"]
    arguments = ["--before", str(fleets[0].write()), "--after", str(fleets[1].write())]

    assert main(arguments) == 1
    assert (
        "plan: the devices of plant must be listed by a Custom::DeviceRegistry, the templates have none: "
        "give --devices TARGET=N\n"
    ) in capsys.readouterr().err
    assert main([*arguments, "--devices", "plant=40"]) == 0
    assert "bill: 26.07 → 26.07" in capsys.readouterr().out


def test_json_holds_everything(tmp_path: Path) -> None:
    before, after = assemblies(tmp_path, "removal")
    path = tmp_path / "plan.json"

    main(["--before", str(before), "--after", str(after), "--json", str(path)])

    content = json.loads(path.read_text())
    assert content["targets"][0]["removed"] == {"plant.Model": "1.0.1"}
    assert content["bill"]["currency"] == "USD"
    assert len(content["unannounced"]) == 1


def test_a_number_of_devices_can_be_given(tmp_path: Path) -> None:
    before, after = assemblies(tmp_path, "code-only")
    path = tmp_path / "plan.json"

    main(["--before", str(before), "--after", str(after), "--json", str(path), "--devices", "plant=5000"])

    assert json.loads(path.read_text())["targets"][0]["rollout_minutes"] == 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --base REF, or both --before and --after"),
        (["--base", "main", "--before", "/nonexistent"], "give --base REF, or both --before and --after"),
        (["--base", "no-such-ref"], "--base must be a commit, branch or tag of this repository, got 'no-such-ref'"),
        (["--base", "HEAD", "--stage", "prdo"], "--stage must be one of dev, prod, twin, got 'prdo'"),
        (
            ["--before", "/nonexistent", "--after", "/nonexistent"],
            "/nonexistent: must be a cloud assembly, got no folder",
        ),
        (["--json", "/nonexistent/plan.json"], "--json must lie in a folder that exists, got /nonexistent/plan.json"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1

    assert f"plan: {says}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("plant", "--devices must be TARGET=NUMBER, got 'plant'"),
        ("plant=-1", "--devices must be TARGET=NUMBER, got 'plant=-1'"),
        ("plant=²", "--devices must be TARGET=NUMBER, got 'plant=²'"),
        ("plan=5", "--devices must name one of plant, got 'plan'"),
    ],
)
def test_a_wrong_number_of_devices_is_refused(
    given: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = assemblies(tmp_path, "no-change")

    assert main(["--before", str(before), "--after", str(after), "--devices", given]) == 1
    assert capsys.readouterr().err == f"plan: {says}\n"


def test_a_restart_takes_hard_dependents_with_it(tmp_path: Path) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    for fleet in (before, after):
        fleet.inference["ComponentDependencies"]["plant.Model"] = {"DependencyType": "HARD"}
    after.new_model()

    (target,) = compare(read_assembly(before.write()), read_assembly(after.write())).targets

    assert target.restarted == ("plant.Inference", "plant.Model")


def test_removing_a_component_is_said_in_the_words_of_an_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = PlannedFleet(tmp_path / "before"), PlannedFleet(tmp_path / "after")
    remove_component(after)

    main(["--before", str(before.write()), "--after", str(after.write())])

    assert "- plant.Model 1.0.1: this uninstalls plant.Model" in capsys.readouterr().out


def test_files_are_written_though_nobody_reads_what_is_told(tmp_path: Path) -> None:
    before, after = map(str, assemblies(tmp_path, "removal"))
    found = tmp_path / "plan.json"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            [sys.executable, "-u", "-m", "tools.plan", "--before", before, "--after", after, "--json", str(found)],
            cwd=Path(__file__).resolve().parents[2],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)

    assert "Broken pipe" not in run.stderr
    assert "bill" in json.loads(found.read_text())
