"""Findings of packs and analysers in one form: what is open, what was accepted, where and why."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tools.compliance import as_junit, as_markdown, as_sarif
from tools.compliance_findings import EXCEPTIONS, Finding, accept, code_line, of_report, policies, read_exceptions

OPEN = Finding("dev", "checkov", "CKV_1", "Storage/Bucket", "no versions | at all")
ENTRY = '[[exception]]\ntool = "checkov"\nrule = "CKV_1"\nresources = ["Storage/*"]\nreason = "%s"\n'
REASON = "every object in it is written once and never again"


def exceptions(folder: Path, reason: str = REASON) -> Path:
    path = folder / "compliance.toml"
    path.write_text(ENTRY % reason)
    return path


def test_an_exception_accepts_what_it_names_and_says_where_it_stands(tmp_path: Path) -> None:
    (found,) = accept([OPEN], read_exceptions(exceptions(tmp_path)))

    assert not found.is_open
    assert found.reason == REASON
    assert found.where.endswith("compliance.toml:1")


def test_an_exception_for_another_resource_accepts_nothing(tmp_path: Path) -> None:
    other = Finding("dev", "checkov", "CKV_1", "Fleet/Bucket", "no versions")

    found = list(accept([other], read_exceptions(exceptions(tmp_path))))

    assert [each.is_open for each in found] == [True, True]
    assert found[1].message == "an exception that covers nothing: remove it"


def test_an_exception_must_explain_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reason must explain the risk that is taken, got 'false positive'"):
        read_exceptions(exceptions(tmp_path, "false positive"))


@pytest.mark.parametrize("pattern", ["*", "*/*", "", "?*"])
def test_an_exception_for_every_resource_is_refused(tmp_path: Path, pattern: str) -> None:
    path = exceptions(tmp_path)
    path.write_text(path.read_text().replace("Storage/*", pattern))

    with pytest.raises(ValueError, match=r"resources must say which resources, got '"):
        read_exceptions(path)


def test_an_exception_without_a_rule_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compliance.toml"
    path.write_text('[[exception]]\ntool = "checkov"\n')

    with pytest.raises(ValueError, match="an exception must have reason, resources, rule"):
        read_exceptions(path)


def test_the_repositorys_exceptions_are_readable() -> None:
    assert all(len(each.reason) > 30 for each in read_exceptions(EXCEPTIONS))


def test_a_reason_is_found_in_the_code_that_states_it() -> None:
    place = code_line("a core device holds nothing of its own: a new instance provisions itself as the same thing")

    assert place.startswith("constructs/edge_constructs/edge_server.py:")


def report(**violation: Any) -> dict[str, Any]:
    place = {"violatingConstructs": [{"constructPath": "Storage/Bucket"}], "description": "wrong", "ruleName": "S1"}
    plugin = {"pluginName": "AwsSolutions", "violations": [], "suppressedViolations": []}
    return {"pluginReports": [{**plugin, **{key: [{**place, **more}] for key, more in violation.items()}}]}


def test_a_violation_of_a_pack_is_open() -> None:
    (found,) = of_report("dev", report(violations={"severity": "warning"}))

    assert found == Finding("dev", "AwsSolutions", "S1", "Storage/Bucket", "wrong")
    assert found.is_open


def test_an_acknowledged_one_has_its_granular_rule_and_reason() -> None:
    accepted = {"acknowledgedId": "AwsSolutions::AwsSolutions-IAM5[Resource::*]", "reason": REASON}

    (found,) = of_report("dev", report(suppressedViolations=accepted))

    assert (found.rule, found.reason, found.is_open) == ("AwsSolutions-IAM5[Resource::*]", REASON, False)


def test_policies_are_complete_for_an_analyser() -> None:
    from edge_rules.fleet_view import FleetView

    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": {"Fn::Sub": "arn:${AWS::Partition}:s3:::b/*"}}
    role = {"Type": "AWS::IAM::Role", "Properties": {"Policies": [{"PolicyDocument": {"Statement": [statement]}}]}}

    found = dict(policies(FleetView({"Identity": {"Resources": {"Role": role}}}), "eu-central-1"))

    assert found["Identity/Role"]["Statement"][0]["Resource"] == "arn:aws:s3:::b/*"


@pytest.fixture
def both(tmp_path: Path) -> list[Finding]:
    accepted = Finding("dev", "cfn-lint", "W1", "Fleet/Role", "unknown", REASON, "config/tables/compliance.toml:4")
    return [OPEN, accepted]


def test_markdown_lists_open_and_accepted_ones(both: list[Finding]) -> None:
    text = as_markdown(both)

    assert "| checkov | 1 | 0 |\n" in text
    assert "| CKV_1 | dev | Storage/Bucket | no versions \\| at all |\n" in text
    assert f"| W1 | Fleet/Role | dev | config/tables/compliance.toml:4 | {REASON} |\n" in text


def test_junit_fails_open_ones_and_skips_accepted_ones(both: list[Finding]) -> None:
    suites = ElementTree.fromstring(as_junit(both))  # noqa: S314 (our own output)

    assert [(suite.get("name"), suite.get("failures"), suite.get("skipped")) for suite in suites] == [
        ("checkov", "1", "0"),
        ("cfn-lint", "0", "1"),
    ]


def test_sarif_points_to_the_line_that_accepted_it(both: list[Finding]) -> None:
    content = json.loads(as_sarif(both))

    opened, accepted = (run["results"][0] for run in content["runs"])
    assert (opened["level"], accepted["level"]) == ("error", "note")
    assert accepted["suppressions"] == [{"kind": "inSource", "justification": REASON}]
    assert accepted["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "config/tables/compliance.toml"},
        "region": {"startLine": 4},
    }
