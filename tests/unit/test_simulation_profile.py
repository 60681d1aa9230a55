"""What a profile says, and what falls to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twin.core_device.components.recipe import Artifact, Recipe
from twin.errors import TwinError
from twin.simulation.profile import Lot, load_profile, read_profile

RECIPE = Recipe("com.example.A", "1.2.0", {}, (), (Artifact("s3://b/k", "digest", False, None),), {})


def test_all_mistakes_are_listed_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text('seed = "x"\nbandwidth_kbit_s = 0\n[[components]]\nshare = 2\nunknown = 1\ninstall_s = [3, 1]\n')

    with pytest.raises(TwinError) as refused:
        load_profile(path)

    text = str(refused.value)
    for place in ("seed", "bandwidth_kbit_s", "components.0.share", "components.0.unknown"):
        assert f"profile.toml: {place}: " in text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"components": [{"install_s": [3, 1]}]}, "must be [least, most]"),
        ({"dialects": {"lite": 0.5}}, "sum up to 1"),
        ({"dialects": {"none": 1}}, "must be one of lite, classic"),
        ({"offline": [{"share": 0.1}]}, "offline.0.for_s"),
        ({"components": [{"exit": {"step": "shutdown"}}]}, "components.0.exit.step"),
        ([], "profile"),
    ],
)
def test_a_mistake_names_its_rule(content: Any, part: str) -> None:
    with pytest.raises(TwinError) as refused:
        read_profile(content)

    assert part in str(refused.value)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("= 1")

    with pytest.raises(TwinError, match="must be a TOML file"):
        load_profile(tmp_path / "p.toml")
    with pytest.raises(TwinError, match="must be a TOML file"):
        load_profile(tmp_path / "missing.toml")


def test_the_same_seed_gives_the_same_lot_and_another_one_another() -> None:
    one, two = read_profile({"seed": 1}), read_profile({"seed": 2})

    drawn = [Lot(one, f"d{number}").chance("x") for number in range(1000)]

    assert drawn == [Lot(one, f"d{number}").chance("x") for number in range(1000)]
    assert drawn != [Lot(two, f"d{number}").chance("x") for number in range(1000)]
    assert 30 <= sum(value < 0.04 for value in drawn) <= 55
    assert len(set(drawn)) == 1000


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        ({"component": "com.example.*"}, True),
        ({"component": "com.other"}, False),
        ({"versions": ">=1.2.0"}, True),
        ({"versions": "<1.2.0"}, False),
        ({"dialect": "classic"}, False),
        ({"content": "digest"}, True),
        ({"content": "other"}, False),
        ({"configuration": {"/mode/fast": True}}, True),
        ({"configuration": {"/mode/fast": False}}, False),
        ({"configuration": {"/mode/fast/deeper": 1}}, False),
        ({"share": 0.0}, False),
    ],
)
def test_an_entry_is_chosen_by_name_version_dialect_content_configuration_and_chance(
    entry: dict[str, Any], fits: bool
) -> None:
    lot = Lot(read_profile({"components": [{**entry, "memory_mb": 5}]}), "d")

    found = lot.behaviour(RECIPE, "lite", {"mode": {"fast": True}})

    assert (found.memory_mb == 5) is fits


def test_the_shares_of_dialects_are_kept() -> None:
    profile = read_profile({"dialects": {"lite": 0.9, "classic": 0.1}})

    classic = sum(Lot(profile, f"d{number}").dialect == "classic" for number in range(1000))

    assert 75 <= classic <= 125
