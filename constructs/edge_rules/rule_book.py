"""All rules: importing this module registers them; checked together, and written as a page."""

from collections.abc import Iterator

from edge_rules import (  # noqa: F401 (each registers its rules)
    access_rules,
    client_device_rules,
    deployment_rules,
    device_rules,
    identity_rules,
    nucleus_rules,
    recipe_rules,
    retired_rules,
    server_rules,
    wheel_rules,
)
from edge_rules.fleet_view import FleetView
from edge_rules.rule import RULES, Finding, Rule

__all__ = ["RULES", "as_markdown", "find"]


def find(fleet: FleetView) -> Iterator[tuple[Rule, list[Finding]]]:
    """Check all rules.

    Args:
        fleet: What to check.

    Returns:
        Each broken rule with all that breaks it.
    """
    for rule in RULES.values():
        if findings := list(rule.check(fleet)):
            yield rule, findings


_HEAD = """# Edge rules

{count} rules that keep known mistakes from reaching devices, as a plugin of CDK's validation framework for any CDK app:

```python
from aws_cdk import Validations
from edge_rules import EdgeChecks

Validations.of(app).add_plugins(EdgeChecks(app))
```

A finding fails the synth. One that is meant is acknowledged on the construct that has it, with a reason:
`Validations.of(construct).acknowledge(Acknowledgment(id="EdgeChecks::Edge-RequiresPrivilege", reason="…"))`.

Where a rule comes from a nucleus, its source is named: a file below `modules/` of
[aws-greengrass-lite](https://github.com/aws-greengrass/aws-greengrass-lite) (`gg/` is of its component SDK) or its
`docs/`, or "2.6.0", where it was seen on that release of nucleus lite.

| rule | says | otherwise | fix | source |
|---|---|---|---|---|
"""


def as_markdown() -> str:
    """Write the page."""
    rows = [
        " | ".join(
            ["", f"`{rule.id}`", *(_cell(text) for text in (rule.says, rule.reason, rule.fix, rule.source)), ""]
        ).strip()
        for rule in RULES.values()
    ]
    return _HEAD.replace("{count}", str(len(RULES))) + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    # Angle brackets and bars would be taken for HTML and for the table's own.
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")
