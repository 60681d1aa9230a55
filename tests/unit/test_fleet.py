"""Lists of devices: what is read, and what a mistake looks like."""

from pathlib import Path

import pytest

from config.fleet import Device, RosterError, read_roster
from config.loader import ConfigurationError, load_stage

GOOD = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[fleet]\nfile = "lab.csv"\n'


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lab.csv", "device,ring\nline-2,canary\nline-1,\n"),
        ("lab.csv", "\ufeffdevice, ring\r\nline-2, canary\r\nline-1, all\r\n"),
        ("lab.yaml", "- {device: line-2, ring: canary}\n- line-1\n"),
        ("lab.yml", "- device: line-1\n- device: line-2\n  ring: canary\n"),
    ],
)
def test_reads_devices_and_rings_sorted(tmp_path: Path, name: str, text: str) -> None:
    assert read_roster(written(tmp_path, name, text)) == (Device("line-1", "all"), Device("line-2", "canary"))


def test_reports_every_mistake_with_its_row(tmp_path: Path) -> None:
    path = written(tmp_path, "lab.csv", "device,ring\na b,canary\nline-2,late\nline-1,all\nline-1,early\n")

    with pytest.raises(RosterError) as caught:
        read_roster(path)

    assert caught.value.mistakes == (
        "lab.csv line 2: device must be 1 to 124 letters, digits, ':', '_' or '-', got 'a b'",
        "lab.csv line 3: ring must be one of canary, early, all, got 'late'",
        "lab.csv line 5: device must be listed once, 'line-1' is there twice",
    )


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "lab.csv",
            "thing\nline-1\n",
            "the first line must name the columns device and ring, each once, got \\['thing'\\]",
        ),
        ("lab.csv", "", "the first line must name"),
        ("lab.csv", "device\nline-1,all,more\n", "a row must have a device and may have a ring"),
        ("lab.yaml", "devices: {}\n", "must be a list of devices, got a mapping"),
        ("lab.yaml", "- [line-1]\n", "lab.yaml line 1: a row must have a device"),
        ("lab.csv", "device,ring,device\nline-1,all,line-2\n", "each once, got \\['device', 'ring', 'device'\\]"),
        ("lab.csv", "device;ring\nline-1;all\n", "got \\['device;ring'\\]: use commas, not ';', between the columns"),
        ("lab.csv", "device\tring\nline-1\tall\n", r"use commas, not '\\t', between the columns"),
        ("lab.csv", 'device\n"line-1"x\n', "lab.csv line 2: a value in quotes must be followed by a comma"),
        ("lab.yaml", "- {\n", "lab.yaml line 2: must be YAML"),
        ("lab.yaml", "- {device: line-1, ring: canary, ring: all}\n", "line 1: .* each key once, ring is there twice"),
        ("lab.yaml", "- device: line-1\n- device: line-2\n  device: line-3\n", "line 2: .* device is there twice"),
        ("lab.yaml", "- {device: {name: line-1}}\n", "a row must have a device and may have a ring"),
        ("lab.yaml", "- {device: line-1, <<: {ring: all}}\n", "a row must have a device and may have a ring"),
        ("lab.yaml", "- {device: line-1, ring: yes}\n", "ring must be one of canary, early, all, got 'yes'"),
        ("lab.txt", "line-1", "must be a .csv, .yaml or .yml file"),
    ],
)
def test_says_what_a_file_must_look_like(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(RosterError, match=told):
        read_roster(written(tmp_path, name, text))


def test_yaml_names_are_the_text_that_stands_there(tmp_path: Path) -> None:
    names = ["0123", "10:20:30:40:50:06", "0x1F", "1_000", "2026-01-01", "1e3", "yes", "null", "010", "12", "Off"]
    path = written(tmp_path, "lab.yaml", "".join(f"- {{device: {name}, ring: canary}}\n" for name in names))

    assert [device.name for device in read_roster(path)] == sorted(names)
    assert [device.name for device in read_roster(written(tmp_path, "l.yml", "- " + "\n- ".join(names)))] == sorted(
        names
    )


@pytest.mark.parametrize("row", ["{device: , ring: all}", "{ring: all}", "", "~", "{device: ~}", "''"])
def test_a_yaml_row_without_a_name_is_a_mistake(tmp_path: Path, row: str) -> None:
    with pytest.raises(RosterError, match=r"^lab.yaml line 2: device must be 1 to 124 letters, digits"):
        read_roster(written(tmp_path, "lab.yaml", f"- line-1\n- {row}\n"))


@pytest.mark.parametrize(
    ("name", "head", "row", "broken"),
    [
        ("lab.csv", "device,ring\n", "line-{},all\n", 'line-{},"all\n'),
        ("lab.csv", "device,ring\n", '"line-{}","all"\n', '"line-{},"all"\n'),
        ("lab.yaml", "", "- {{device: line-{}, ring: all}}\n", '- {{device: "line-{}, ring: all}}\n'),
        ("lab.yaml", "", "- 'line-{}'\n", "- 'line-{}\n"),
        ("lab.yaml", "", "- line-{}\n", '- "line-{}\n'),
    ],
)
def test_an_unclosed_quote_among_ten_thousand_rows_is_told_with_its_line(
    tmp_path: Path, name: str, head: str, row: str, broken: str
) -> None:
    rows = [(broken if number == 5000 else row).format(number) for number in range(10_000)]
    path = written(tmp_path, name, head + "".join(rows))

    with pytest.raises(RosterError) as caught:
        read_roster(path)

    text = str(caught.value)
    assert f"{name} line {5001 + bool(head)}: " in text
    assert "quote" in text
    assert len(text.splitlines()) <= 10
    assert len(text) < 1000


def test_values_of_any_length_make_a_short_message(tmp_path: Path) -> None:
    lines = "".join(f"{'x' * 200_000}{number},all\n" for number in range(12))

    with pytest.raises(RosterError) as caught:
        read_roster(written(tmp_path, "lab.csv", "device,ring\n" + lines))

    assert len(str(caught.value)) < 2500
    assert str(caught.value).endswith("lab.csv: and 3 more")


def test_a_long_list_of_mistakes_is_cut(tmp_path: Path) -> None:
    path = written(tmp_path, "lab.csv", "device\n" + "a b\n" * 100)

    with pytest.raises(RosterError, match=r"lab.csv: and 91 more"):
        read_roster(path)


def test_a_stage_names_its_file_and_field_in_the_error(tmp_path: Path) -> None:
    written(tmp_path, "lab.toml", GOOD)

    with pytest.raises(ConfigurationError, match=r"lab.toml: fleet.file: lab.csv: must be a readable file in UTF-8"):
        load_stage("lab", tmp_path)


def test_a_stage_takes_devices_of_its_own_and_of_its_file(tmp_path: Path) -> None:
    written(tmp_path, "lab.toml", GOOD + 'devices = ["bench"]\n')
    written(tmp_path, "lab.csv", "device,ring\nline-1,early\n")

    assert load_stage("lab", tmp_path).fleet.roster == (Device("bench"), Device("line-1", "early"))


def test_a_device_of_both_is_a_mistake(tmp_path: Path) -> None:
    written(tmp_path, "lab.toml", GOOD + 'devices = ["bench"]\n')
    written(tmp_path, "lab.csv", "device,ring\nbench,early\n")

    with pytest.raises(ConfigurationError, match=r"also in fleet.devices: bench"):
        load_stage("lab", tmp_path)
