"""The rules as a page: docs/edge-rules.md."""

from edge_rules.rule_book import RULES

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
