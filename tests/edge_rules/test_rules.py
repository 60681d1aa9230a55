"""Every rule both ways: the sample fleet keeps all of them, and one change breaks exactly one."""

import zipfile
from pathlib import Path

import pytest

from edge_rules import access_rules
from edge_rules.access_rules import topics_in_code
from edge_rules.deployment_rules import places_left
from edge_rules.edge_checks import RULES
from tests.edge_rules.breaks import ALSO, BREAKS, KEEPS
from tests.edge_rules.device_breaks import add_tools
from tests.edge_rules.sample_fleet import Fleet
from tests.edge_rules.ways import Break


def test_the_sample_fleet_keeps_every_rule(fleet: Fleet) -> None:
    assert fleet.findings() == []


@pytest.mark.parametrize("name", BREAKS)
def test_a_break_of_one_rule_is_found_by_that_rule_alone(name: str, fleet: Fleet) -> None:
    logical_id, change = BREAKS[name]

    change(fleet)

    assert fleet.findings() == [(f"Edge-{name}", logical_id)]


@pytest.mark.parametrize("name", [name for name in BREAKS if name != "ComponentRetain"])
def test_versions_that_a_custom_resource_makes_are_looked_at_in_the_same_way(name: str, fleet: Fleet) -> None:
    logical_id, change = BREAKS[name]
    for component in ("Runtime", "Inference"):
        # It keeps what it made by itself: the policy would say nothing.
        fleet.resources[component].update(Type="Custom::ComponentVersion")
        fleet.resources[component].pop("UpdateReplacePolicy")

    change(fleet)

    assert fleet.findings() == [(f"Edge-{name}", logical_id)]


@pytest.mark.parametrize(("name", "logical_id", "change"), ALSO)
def test_other_ways_to_break_a_rule_are_found_too(name: str, logical_id: str, change: Break, fleet: Fleet) -> None:
    change(fleet)

    assert fleet.findings() == [(f"Edge-{name}", logical_id)]


@pytest.mark.parametrize("what", KEEPS)
def test_a_near_miss_breaks_no_rule(what: str, fleet: Fleet) -> None:
    KEEPS[what](fleet)

    assert fleet.findings() == []


@pytest.mark.parametrize(
    "call",
    [
        "publish(topic='plant/a')",
        'publish(topic_name = r"plant/a")',
        "publish(topic\n  =\n  'plant/a')",
        "publish(topic  # where\n = 'plant/a')",
        "publish(topic=  # where\n U'plant/a')",
        "publish(topic=('plant/a'))",
        "publish(topic \\\n = \\\n 'plant/a')",
    ],
)
def test_a_topic_in_code_is_found_however_it_is_written(call: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as members:
        members.writestr("code.py", call)
        members.writestr("of_the_configuration.py", "publish(topic=settings.topic, subtopic='plant/b')")

    assert topics_in_code(tmp_path / "code.zip") == (("code.py", "plant/a"),)


@pytest.mark.parametrize("code", ["\0", "-" * 100_000 + "1", "1+" * 50_000 + "1", "print 1"])
def test_code_that_python_cannot_parse_names_no_topic(code: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as members:
        members.writestr("code.py", f"publish(topic='plant/a')\n{code}")

    assert topics_in_code(tmp_path / "code.zip") == ()


def test_code_that_names_no_topic_by_a_text_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as members:
        members.writestr("code.py", "def publish(topic: str) -> None:\n    call(topic=topic, topic_name=request.topic)")
    monkeypatch.setattr(access_rules, "_written_out", lambda _source: pytest.fail("parsed"))

    assert topics_in_code(tmp_path / "code.zip") == ()


def test_every_rule_is_broken_by_a_test() -> None:
    assert {f"Edge-{name}" for name in BREAKS} == set(RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_rule_says_why_and_what_to_do(rule: object) -> None:
    texts = [getattr(rule, name) for name in ("says", "reason", "fix")]

    assert all(len(text) > 10 and not text.endswith(".") for text in texts)


def test_the_places_of_the_fullest_device_are_told(fleet: Fleet) -> None:
    add_tools(15)(fleet)

    assert places_left(fleet.view()) == (
        "17 of 18 components on a device, which nucleus lite has room for: 1 place left"
    )


def test_devices_of_the_classic_nucleus_have_no_places(fleet: Fleet) -> None:
    for recipe in (fleet.runtime, fleet.inference):
        recipe["Manifests"][0]["Platform"].update(runtime="classic")

    assert places_left(fleet.view()) == ""
