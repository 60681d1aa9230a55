"""The pack of edge rules: as a plugin of CDK's validation framework, and as a page. Importing it registers them."""

from collections.abc import Iterator
from pathlib import Path

import aws_cdk as cdk
import jsii
from constructs import IConstruct

from edge_rules import (  # noqa: F401 (each registers its rules)
    access_rules,
    client_device_rules,
    deployment_rules,
    nucleus_rules,
    recipe_rules,
    retired_rules,
    server_rules,
    wheel_rules,
)
from edge_rules.fleet_view import RULES, Finding, FleetView, Rule

__all__ = ["NAME", "RULES", "EdgeChecks", "as_markdown", "find"]


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


NAME = "EdgeChecks"


@jsii.implements(cdk.IPolicyValidationPlugin)
class EdgeChecks:
    """Checks what reaches devices: recipes, deployments, wheels, identities, retired services.

    Acknowledge a finding as one of cdk-nag: `Validations.of(construct).acknowledge(Acknowledgment(
    id="EdgeChecks::Edge-RequiresPrivilege", reason="…"))`.

    Args:
        scope: The app, as the packs of cdk-nag take it; the rules read templates and need nothing of it.
    """

    def __init__(self, scope: IConstruct | None = None) -> None:
        self._scope = scope

    @property
    def name(self) -> str:
        """Name in the report, and the prefix of acknowledgements."""
        return NAME

    @property
    def rule_ids(self) -> list[str]:
        """Ids of all rules."""
        return list(RULES)

    @property
    def version(self) -> str:
        """Version of the pack."""
        return "1.0.0"

    def validate(self, context: cdk.IPolicyValidationContext) -> cdk.PolicyValidationPluginReport:
        """Check the templates of an assembly.

        Args:
            context: Tells where they are.
        """
        paths = {Path(path).name.removesuffix(".template.json"): path for path in context.template_paths}
        violations = [
            cdk.PolicyViolation(
                rule_name=rule.id,
                description=f"{rule.says}, got {finding.value}: {rule.reason}",
                fix=rule.fix,
                severity="error",
                violating_resources=[
                    cdk.PolicyViolatingResource(
                        resource_logical_id=finding.resource.logical_id,
                        template_path=paths[finding.resource.stack],
                        locations=[finding.location],
                    )
                ],
            )
            for rule, findings in find(FleetView.read([Path(path) for path in paths.values()]))
            for finding in findings
        ]
        return cdk.PolicyValidationPluginReport(success=not violations, violations=violations, plugin_version="1.0.0")
