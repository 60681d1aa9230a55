"""Fails a synth that breaks a security rule, with a report that says what to do about it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

REPORT = "validation-report.json"
#: CDK's own reaction to a finding is a traceback; the gate reads the same report and raises its own error.
_FAIL_IN_CDK = "@aws-cdk/core:failSynthOnValidationErrors"
_FAILING = {"error", "fatal"}


def new_app(context: Mapping[str, Any] | None = None, *, outdir: Path | None = None) -> cdk.App:
    """Make an app whose findings the gate reports, and nobody else.

    Args:
        context: The app's context; what the command line passes in `CDK_CONTEXT_JSON` wins over it.
        outdir: Folder for the templates; by default what CDK_OUTDIR says, else a temporary one.

    Returns:
        The app, without stacks.
    """
    return cdk.App(
        context=context,
        outdir=str(outdir) if outdir else None,
        post_cli_context={_FAIL_IN_CDK: False},
        analytics_reporting=False,
        auto_synth=False,
        builtin_cloud_formation_validation=False,
        stack_traces=False,
        tree_metadata=False,
    )


class PolicyViolationError(Exception):
    """Findings that nobody acknowledged; the text lists each with its rule, resource, message and fix."""


class PolicyGate:
    """Checks every resource of an app against the AWS Solutions rules when it is synthesised.

    Args:
        app: The app that `new_app` made.
        templates: Whether to check the templates against CloudFormation's own schemas as well. That takes as long as
            everything else together, so tests and CI do it and a synth at the desk does not.
    """

    def __init__(self, app: cdk.App, *, templates: bool = False) -> None:
        self._app = app
        validations = cdk.Validations.of(app)
        validations.add_plugins(AwsSolutionsChecks(app))
        if templates:
            validations.add_plugins(cdk.CloudFormationValidatePlugin())

    def synth(self) -> Path:
        """Synthesise the app.

        Returns:
            Folder of the templates.

        Raises:
            PolicyViolationError: A resource has a finding that no acknowledgement covers.
        """
        folder = Path(self._app.synth().directory)
        report = folder / REPORT
        findings = _findings(json.loads(report.read_text(encoding="utf-8"))) if report.exists() else []
        if findings:
            head = f"policy gate: {len(findings)} finding{'s' * (len(findings) > 1)} in {folder.name}/{REPORT}"
            raise PolicyViolationError("\n\n".join([head, *findings]))
        return folder


def _findings(report: dict[str, Any]) -> list[str]:
    """Describe the failing findings of a report, one text a resource."""
    return [
        f"{violation['ruleName']}\n"
        f"  resource: {place.get('constructPath') or place.get('resourceLogicalId', 'unknown')}\n"
        f"  message:  {violation['description']}\n"
        f"  fix:      change the resource, or acknowledge {plugin['pluginName']}::{violation['ruleName']} "
        "with a reason on it"
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        if violation.get("severity", "error") in _FAILING
        for place in violation["violatingConstructs"]
    ]
