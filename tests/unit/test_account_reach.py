"""What a role reaches in the whole account: listed in docs/security.md with the reason, or refused here."""

import re
from collections import defaultdict
from typing import Any

from config.places import PROJECT as ROOT
from tests.synthesis import stacks, template

STAGES = ("twin", "dev", "prod")
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
#: `thing/*` of the account, and the like.
WIDE = re.compile(r":(?:iot|greengrass):[^/]*:((?:thing|cert|job|coreDevices|deployments)[:/]\*)$")


def resources(kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{stage} {stack} {name}", resource["Properties"])
        for stage in STAGES
        for stack in stacks(stage)
        for name, resource in template(stage, stack)["Resources"].items()
        if resource["Type"] == kind
    ]


def text(value: Any) -> str:
    if isinstance(value, dict):
        joined = value.get("Fn::Join")
        return "".join(text(part) for part in joined[1]) if joined else "?"
    return str(value)


def wide_reaches() -> dict[str, set[str]]:
    """Actions by what they reach in the whole account."""
    documents = [role["PolicyDocument"] for _, role in resources("AWS::IAM::Policy")]
    documents += [
        policy["PolicyDocument"] for _, role in resources("AWS::IAM::Role") for policy in role.get("Policies", [])
    ]
    found = defaultdict[str, set[str]](set)
    for statement in (statement for document in documents for statement in document["Statement"]):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        reached = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in reached:
            if (wide := WIDE.search(text(resource))) and "Condition" not in statement:
                found[wide[1]].update(actions)
    return found


def listed() -> dict[str, set[str]]:
    """The table of docs/security.md: what is reached, and by which actions."""
    rows = re.findall(r"^\| `([a-zA-Z]+[:/]\*)` \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    return {reached: set(re.findall(r"`([a-z]+:[A-Za-z]+)`", actions)) for reached, actions in rows}


def test_what_a_role_reaches_in_the_whole_account_is_listed_with_the_reason() -> None:
    assert listed() == wide_reaches(), "docs/security.md must list exactly these, with the reason"
