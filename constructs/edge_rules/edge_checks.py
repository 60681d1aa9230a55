"""The pack of edge rules as a plugin of CDK's validation framework."""

from pathlib import Path

import aws_cdk as cdk
import jsii
from constructs import IConstruct

from edge_rules.fleet_view import FleetView
from edge_rules.rule_book import RULES, find

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
