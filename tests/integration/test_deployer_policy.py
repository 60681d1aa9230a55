"""The policy that docs/deploy.md gives a deployer, tried on a twin that evaluates policies, and judged without one."""

import json
from pathlib import Path

import pytest

from tools.deployer_policy import POLICY, USER, judge, policy_for, run, single_grants

ACCOUNT, REGION = "000000000000", "us-east-1"
ROLES = ("deploy", "file-publishing")


def request(role: str, *, allowed: bool = True) -> dict[str, object]:
    """One line of the access trail."""
    return {
        "principal": USER,
        "type": "User",
        "account": ACCOUNT,
        "action": "sts:AssumeRole",
        "resource": f"arn:aws:iam::{ACCOUNT}:role/cdk-hnb659fds-{role}-role-{ACCOUNT}-{REGION}",
        "region": REGION,
        "context": {},
        "allowed": allowed,
    }


@pytest.mark.integration
@pytest.mark.long
def test_a_user_with_the_policy_alone_deploys_and_destroys_and_one_without_it_does_not(tmp_path: Path) -> None:
    trial = run(tmp_path)

    assert trial.mistakes == []
    assert "is not authorized to perform" in trial.refusal
    # The user itself only changes roles; the bootstrap's roles do the work, under their own policies.
    assert trial.requests[USER] == len(ROLES)
    assert trial.requests[f"cdk-hnb659fds-deploy-role-{ACCOUNT}-{REGION}"] > len(ROLES)


def test_the_policy_is_what_the_recorded_requests_need() -> None:
    trial = judge(policy_for(ACCOUNT, REGION), [request(role) for role in ROLES], [], "refused")

    assert trial.mistakes == []
    assert all(each.needed_by for each in trial.grants)


def test_a_statement_that_nothing_needs_a_denied_request_and_a_stack_that_stays_are_mistakes() -> None:
    trial = judge(policy_for(ACCOUNT, REGION), [request("deploy"), request("lookup", allowed=False)], ["kept"], "")

    denied, left, unneeded = trial.mistakes
    assert denied.startswith(f"denied: {USER}: sts:AssumeRole on ")
    assert left == "left behind: kept"
    assert unneeded.startswith("needed by nothing: sts:AssumeRole on ")
    assert "file-publishing-role" in unneeded


def test_the_policy_has_no_wildcard_and_no_account() -> None:
    text = POLICY.read_text(encoding="utf-8")

    assert "*" not in text
    assert ACCOUNT not in text
    assert len(single_grants(json.loads(text))) == len(ROLES)
