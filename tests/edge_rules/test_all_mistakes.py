"""Every mistake of docs/aws-truth.md made at once: templates and a stage's file are told all that is wrong with them.

What only shows once something is deployed has its test on the twin, which the page names.
"""

import json
import re
from pathlib import Path

import aws_cdk as cdk
import pytest

from benchmarks.aws_mistakes import CHANGES
from benchmarks.unnoticed_changes import Change
from config.loader import ConfigurationError, load_stage
from edge_constructs.synth import PolicyGate, PolicyViolationError, new_app
from edge_rules.edge_checks import RULES
from tests.edge_rules.breaks import BREAKS
from tests.edge_rules.sample_fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "aws-truth.md"
#: Of the page's rules all but one of two that one function cannot break together.
IN_TEMPLATES = (
    "ServerImage",
    "ServerRights",
    "ServerMetadata",
    "FunctionGlibc",
    "ArtifactGlibc",
    "TopicKeySource",
    "IotClientId",
)
#: Lines of one start script, each a mistake.
IN_SCRIPT = {
    "ServerEgress": "retry apt-get install --yes --quiet unzip",
    "ServerPython": "retry dnf install --assumeyes python3.12",
}
NOT_TOGETHER = "FunctionWheel"
GOOD = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n'
IN_FILES = {
    f'{GOOD}compiler = "neo"\nverify = "endpoint"\n': "verify endpoint runs what neo compiled for its own kind",
    f'{GOOD}[runtime]\npython = "3.10"\n': "runtime.python must be one that the edge server's system has",
}


def rows() -> list[list[str]]:
    """The cells of the page's first table."""
    table = PAGE.read_text(encoding="utf-8").partition("| point |")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_an_app_with_all_mistakes_is_told_each_of_them(fleet: Fleet) -> None:
    for name in IN_TEMPLATES:
        BREAKS[name][1](fleet)
    fleet.script = "\n".join([fleet.script, *IN_SCRIPT.values()])

    assert {rule for rule, _ in fleet.findings()} == {f"Edge-{name}" for name in (*IN_TEMPLATES, *IN_SCRIPT)}


def test_a_synth_of_a_cdk_app_with_all_mistakes_reports_each_of_them(fleet: Fleet) -> None:
    for name in IN_TEMPLATES:
        BREAKS[name][1](fleet)
    fleet.script = "\n".join([fleet.script, *IN_SCRIPT.values()])
    fleet.view()
    assets = json.loads((fleet.folder / "Plant.assets.json").read_text())["files"]
    app = new_app(outdir=fleet.folder)
    gate = PolicyGate(app)
    stack = cdk.Stack(app, "Plant", env=cdk.Environment(region="eu-west-1"))
    # The sample's own ids, so that what refers to them still does.
    for name, parameter in fleet.parameters.items():
        cdk.CfnParameter(stack, name, type=parameter["Type"], default=parameter.get("Default"))
    for name, each in fleet.resources.items():
        made = cdk.CfnResource(stack, name, type=each["Type"], properties=each.get("Properties", {}))
        for key in each.keys() - {"Type", "Properties"}:
            made.add_override(key, each[key])
    for digest, asset in assets.items():
        stack.synthesizer.add_file_asset(
            source_hash=digest, file_name=asset["source"]["path"], packaging=cdk.FileAssetPackaging.FILE
        )

    with pytest.raises(PolicyViolationError) as told:
        gate.synth()

    found = set(re.findall(r"\bEdge-\w+", str(told.value)))
    assert found >= {f"Edge-{name}" for name in (*IN_TEMPLATES, *IN_SCRIPT)}
    assert str(told.value).startswith("policy gate: ")


@pytest.mark.parametrize("text", IN_FILES)
def test_a_stages_file_with_a_mistake_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(text)

    with pytest.raises(ConfigurationError, match=re.escape(IN_FILES[text])):
        load_stage("lab", tmp_path)


def test_a_stage_within_anothers_name_is_refused(tmp_path: Path) -> None:
    for name in ("lab", "lab-canary"):
        (tmp_path / f"{name}.toml").write_text(GOOD)

    with pytest.raises(ConfigurationError, match="must not begin with another one's and a hyphen"):
        load_stage("lab-canary", tmp_path)


def test_the_page_names_no_rule_that_is_not_tried_here() -> None:
    named = {rule for _, _, gate in rows() for rule in re.findall(r"`Edge-(\w+)`|\bEdge-(\w+):", gate) for rule in rule}

    assert named - {""} == {*IN_TEMPLATES, *IN_SCRIPT, NOT_TOGETHER}


def test_each_row_has_its_mistake_to_be_made_again() -> None:
    made = {change.what for change in CHANGES}

    # Nothing of the code makes an export between models: the row's test looks for any.
    assert made == {row[0] for row in rows()} - {"A model that was taken out"}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.what)
def test_a_mistake_still_fits_the_code(change: Change) -> None:
    assert (ROOT / change.file).read_text(encoding="utf-8").count(change.old) == 1
    assert [test for test in change.tests if not (ROOT / test).is_file()] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: re.sub(r"\W+", " ", row[0]).strip())
def test_every_row_of_the_page_names_a_gate_that_is_there(row: list[str]) -> None:
    gate = row[2]
    rules = re.findall(r"Edge-\w+", gate)
    files = [ROOT / path for path in re.findall(r"tests/[\w/]+\.py", gate)]
    tests = re.findall(r"\btest_\w+\b(?!\.py)", gate)
    everywhere = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }

    assert rules or files or tests
    assert [file for file in files if not file.is_file()] == []
    assert [test for test in tests if test not in everywhere] == []
    assert [rule for rule in rules if rule not in RULES] == []
