"""A synth: the app with its context, the gate that fails it on findings, and how a failure is told."""

import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks, NIST80053R5Checks, ServerlessChecks

from edge_constructs.reproducible_zip import leftovers
from edge_rules import EdgeChecks
from edge_rules.deployment_rules import places_left
from edge_rules.fleet_view import FleetView
from edge_rules.wheel_rules import read_ahead

REPORT = "validation-report.json"
#: CDK's own reaction to a finding is a traceback; the gate reads the same report and raises its own error.
_FAIL_IN_CDK = "@aws-cdk/core:failSynthOnValidationErrors"
_PACKS = (AwsSolutionsChecks, NIST80053R5Checks, ServerlessChecks, EdgeChecks)
#: Of CDK's own checks only these fail; the packs' warnings are findings like any other.
_FAILING = {"error", "fatal"}
_PACK_NAMES = {"AwsSolutions", "NIST.800.53.R5", "Serverless", "EdgeChecks"}


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
    """Checks an app against AwsSolutions, NIST 800-53 R5, Serverless and the edge rules when it is synthesised.

    Args:
        app: The app that `new_app` made.
        templates: Whether to check the templates against CloudFormation's own schemas as well. That takes as long as
            everything else together, so `make synth` and CI do it and a synth at the desk does not.
    """

    def __init__(self, app: cdk.App, *, templates: bool = False) -> None:
        self._app = app
        validations = cdk.Validations.of(app)
        validations.add_plugins(*(pack(app) for pack in _PACKS))
        if templates:
            validations.add_plugins(cdk.CloudFormationValidatePlugin())

    def synth(self) -> Path:
        """Synthesise the app.

        Returns:
            Folder of the templates.

        Raises:
            PolicyViolationError: A resource has a finding that no acknowledgement covers.
        """
        # The constructs have made their archives by now, and the edge rules come after the other packs.
        with read_ahead(list(Path(self._app.outdir).rglob("*.zip"))):
            folder = Path(self._app.synth().directory)
        report = folder / REPORT
        findings = _findings(json.loads(report.read_text(encoding="utf-8"))) if report.exists() else []
        if findings:
            head = f"policy gate: {len(findings)} finding{'s' * (len(findings) > 1)} in {folder.name}/{REPORT}"
            raise PolicyViolationError("\n\n".join([head, *findings]))
        return folder


def open_violations(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The findings of a validation report that fail a synth, each with the name of its pack."""
    return [
        (plugin["pluginName"], violation)
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        if plugin["pluginName"] in _PACK_NAMES or violation.get("severity", "error") in _FAILING
    ]


def room(folder: Path) -> str:
    """Say how many components devices still have room for.

    Args:
        folder: What `PolicyGate.synth` returned.

    Returns:
        A line with its end; empty where nothing is deployed to nucleus lite.
    """
    said = places_left(FleetView.read(sorted(folder.glob("*.template.json"))))
    return f"synth: {said}\n" if said else ""


def left_out(folder: Path) -> str:
    """Say which files of a folder do not ship, because an editor, a merge or a desktop has left them there.

    Args:
        folder: What ships.

    Returns:
        A line with its end; empty where there is none.
    """
    names = leftovers(folder)
    shown = ", ".join(ascii(name)[1:-1] for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
    return f"synth: left out of {folder.name}, for they are no part of it: {shown}\n" if names else ""


def _findings(report: Mapping[str, Any]) -> list[str]:
    """Describe the failing findings of a report, one text a resource."""
    return [
        f"{violation['ruleName']}\n"
        f"  resource: {place.get('constructPath') or place.get('resourceLogicalId', 'unknown')}{_property(place)}\n"
        f"  message:  {violation['description']}\n"
        f"  fix:      {violation.get('suggestedFix') or 'change the resource'}, or acknowledge "
        f"{pack}::{violation['ruleName']} with a reason on it"
        for pack, violation in open_violations(report)
        for place in violation["violatingConstructs"]
    ]


def _property(place: Mapping[str, Any]) -> str:
    """Where in the resource it is, if the pack says so."""
    paths = (place.get("cloudFormationResource") or {}).get("propertyPaths") or []
    return f" ({', '.join(paths)})" if paths else ""


#: JavaScript's stack frames, which follow the message of an error that comes from the CDK.
_FRAMES = re.compile(r"\n\s+at .*", re.DOTALL)


def describe(error: Exception, root: Path) -> str:
    """Write an error without its traceback.

    Args:
        error: What ended the synth.
        root: Folder of the app: the last line of it that was running is the place that is shown.

    Returns:
        Message, place and the way to the traceback, a line each.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(Path(frame.filename), root)]
    place = f"{Path(own[-1].filename).resolve().relative_to(root.resolve())}:{own[-1].lineno}" if own else "unknown"
    message = _FRAMES.sub("", str(error)).strip() or type(error).__name__
    # jsii puts the class of the JavaScript error before its text.
    message = re.sub(r"^(?:@?[\w./-]+\.)?(?:\w*Error): ", "", message)
    kind = f"{type(error).__name__}: " if isinstance(error, (KeyError, AttributeError, TypeError)) else ""
    return f"synth: {kind}{message}\n  at:  {place}\n  fix: correct it there; -c debug=true shows the whole traceback"


def _is_own(file: Path, root: Path) -> bool:
    try:
        inside = file.resolve().relative_to(root.resolve())
    except ValueError:
        return False
    # The virtual environment may lie in the same folder.
    return not inside.parts[0].startswith(".") and inside.parts[0] != "node_modules"
