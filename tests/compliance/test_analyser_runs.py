"""How the analysers are run: programs that only note what they are given stand for them here."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.stand_in import write_stand_in
from tools import compliance_findings
from tools.compliance_findings import AnalyserError, Assembly, analyse

TEMPLATE = {"Resources": {"Role": {"Type": "AWS::IAM::Role", "Properties": {}}}}
#: Answers as checkov does, naming each file as it was given; the others find nothing.
PROGRAM = """\
import json, os, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    print(json.dumps([name, os.getcwd(), arguments]), file=log)
if name == "checkov":
    files = [arguments[place + 1] for place, each in enumerate(arguments) if each == "-f"]
    found = dict(check_id="CKV_1", check_name="wrong", resource="AWS::IAM::Role.Role")
    failed = [dict(found, file_abs_path=file) for file in files]
    print(json.dumps(dict(results=dict(failed_checks=failed))))
    sys.exit(1)
if name == "cfn-lint":
    print("[]")
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    for name in ("checkov", "cfn-lint", "parliament"):
        write_stand_in(folder / name, PROGRAM.format(log=str(log)))
    monkeypatch.setattr(compliance_findings, "BIN", folder)
    return log


def assemblies(work: Path, **regions: str) -> list[Assembly]:
    made = [Assembly(stage, region, work / stage / "cdk.out") for stage, region in regions.items()]
    for each in made:
        each.folder.mkdir(parents=True)
        (each.folder / "Identity.template.json").write_text(json.dumps(TEMPLATE))
    return made


def test_each_analyser_starts_once_and_cfn_lint_once_a_region(tmp_path: Path, log: Path) -> None:
    list(analyse(assemblies(tmp_path / "w", dev="eu-central-1", prod="eu-central-1", twin="us-east-1"), tmp_path / "w"))

    runs = [json.loads(line) for line in log.read_text().splitlines()]
    regions = [arguments[1] for name, _, arguments in runs if name == "cfn-lint"]
    assert sorted(regions) == ["eu-central-1", "us-east-1"]
    assert [name for name, _, _ in runs].count("checkov") == 1


def test_findings_of_one_run_go_to_the_stage_whose_file_it_was(tmp_path: Path, log: Path) -> None:
    found = list(analyse(assemblies(tmp_path / "w", dev="eu-west-1", prod="eu-west-1"), tmp_path / "w"))

    assert sorted((each.stage, each.rule, each.resource) for each in found) == [
        ("dev", "CKV_1", "Identity/Role"),
        ("prod", "CKV_1", "Identity/Role"),
    ]


def test_checkov_sees_no_part_of_the_path_to_the_work_folder(tmp_path: Path, log: Path) -> None:
    work = tmp_path / ("x" * 40)

    list(analyse(assemblies(work, dev="eu-west-1"), work))

    (run,) = [each for each in map(json.loads, log.read_text().splitlines()) if each[0] == "checkov"]
    assert run[1] == str(work.resolve())
    assert run[2][-2:] == ["-f", "dev/cdk.out/Identity.template.json"]


def test_an_analyser_that_is_not_there_is_named_with_the_way_to_get_it(tmp_path: Path, log: Path) -> None:
    (tmp_path / "bin" / "parliament").unlink()

    with pytest.raises(AnalyserError, match=r"parliament must be installed in .*: run make setup-compliance"):
        list(analyse(assemblies(tmp_path / "w", dev="eu-west-1"), tmp_path / "w"))


def test_an_analyser_that_fails_without_an_answer_is_an_error(tmp_path: Path, log: Path) -> None:
    (tmp_path / "bin" / "cfn-lint").write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")

    with pytest.raises(AnalyserError, match="cfn-lint failed with exit code 9: out of memory"):
        list(analyse(assemblies(tmp_path / "w", dev="eu-west-1"), tmp_path / "w"))


def test_an_analyser_that_does_not_end_is_ended(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compliance_findings, "LIMIT_S", 0.2)
    (tmp_path / "bin" / "checkov").write_text("#!/bin/sh\nexec sleep 60\n")

    with pytest.raises(AnalyserError, match=r"checkov must finish within 0\.2 s"):
        list(analyse(assemblies(tmp_path / "w", dev="eu-west-1"), tmp_path / "w"))


@pytest.mark.long
@pytest.mark.skipif(not compliance_findings.BIN.is_dir(), reason="make setup-compliance installs the analysers")
@pytest.mark.parametrize("name", ["cfn-lint", "checkov", "cloudsplaining", "parliament"])
def test_an_analyser_starts_with_what_its_lock_installs(name: str) -> None:
    ended = subprocess.run(
        [str(compliance_findings.BIN / name), "--help"], capture_output=True, text=True, timeout=120, check=False
    )

    assert ended.returncode == 0, ended.stderr
