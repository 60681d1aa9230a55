"""What a profile says, and what falls to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twin import TwinError
from twin.core_device.components.recipe import Artifact, Recipe
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
        ({"clock_skew_s": float("nan")}, "clock_skew_s.0: Input should be a finite number, got nan"),
        ({"clock_skew_s": [0, 1e300]}, "clock_skew_s.1: Input should be less than or equal to"),
        ({"bandwidth_kbit_s": float("inf")}, "bandwidth_kbit_s: Input should be a finite number"),
        ({"components": [{"memory_mb": float("inf")}]}, "components.0.memory_mb: Input should be a finite number"),
        # A device that comes and goes a billion times a second would keep the process from all else.
        (
            {"offline": [{"share": 1, "for_s": 0, "every_s": 1e-9}]},
            "every_s: Input should be greater than or equal to 1",
        ),
        (
            {"components": [{"versions": "^1.2.0"}]},
            "versions must be a range of whole versions, as >=1.2.0 <2.0.0, got",
        ),
        ({"components": [{"versions": ">=1.2"}]}, "versions must be a range of whole versions"),
        ({"components": [{"configuration": {"mode": 1}}]}, "JSON pointers, which begin with /, got 'mode'"),
        ({"components": [{"messages": [{"topic": "site/+"}]}]}, "messages.0.topic: String should match pattern"),
        ({"components": [{"answers": [{"topic": "a", "answer": "a/#"}]}]}, "answers.0.answer: String should match"),
        ({"components": [{"answers": [{"topic": "a", "answer": "a"}]}]}, "answer must be another topic than topic"),
    ],
)
def test_a_mistake_names_its_rule(content: Any, part: str) -> None:
    with pytest.raises(TwinError) as refused:
        read_profile(content)

    assert part in str(refused.value)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("= 1")
    (tmp_path / "long.toml").write_text(f"seed = {'1' * 5000}")
    (tmp_path / "deep.toml").write_text(f"seed = {'[' * 100_000}")

    for name in ("long", "deep"):
        with pytest.raises(TwinError, match="must be a TOML file"):
            load_profile(tmp_path / f"{name}.toml")
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
