"""The CDK app: one stage, chosen by `-c stage=…`, all of its stacks, checked by the policy gate.

    .venv/bin/python app.py     is a full synth: context in CDK_CONTEXT_JSON, output in CDK_OUTDIR

`-c validate=true` checks the templates against CloudFormation's schemas, too; `-c debug=true` shows tracebacks.
"""

# ruff: noqa: E402 (the lines between the imports must come before the next ones)

import gc
import os
import sys
from pathlib import Path

# Imports and synth make a million objects that live to the end: looking for garbage among them only costs time.
gc.disable()
# `constructs/` is a source root: it holds edge_constructs and edge_handlers, and is no package itself.
sys.path.insert(1, str(Path(__file__).resolve().parent / "constructs"))

from tools.node import node_binary

# jsii reads it when aws_cdk is imported.
os.environ.setdefault("JSII_NODE", str(node_binary()))

from config.loader import DEFAULT_STAGE, ConfigurationError, load_stage
from edge_constructs.edge_assets import MissingAssetError
from edge_constructs.feature_flags import read_context
from edge_constructs.policy_gate import PolicyGate, PolicyViolationError, new_app
from stacks.edgewright import define_stacks


def main() -> None:
    """Synthesise the stage; whatever is wrong with it ends with exit code 1 and its text.

    With `-c debug=true` an error ends with its traceback instead.
    """
    app = new_app(read_context())
    gate = PolicyGate(app, templates=app.node.try_get_context("validate") == "true")
    try:
        define_stacks(app, load_stage(app.node.try_get_context("stage") or DEFAULT_STAGE))
        gate.synth()
    except Exception as exc:
        if app.node.try_get_context("debug") == "true":
            raise
        sys.exit(describe(exc))


def describe(error: Exception) -> str:
    """Say what is wrong: errors of this app speak for themselves, others are named."""
    if isinstance(error, (ConfigurationError, MissingAssetError, PolicyViolationError, ValueError)):
        return str(error)
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}; -c debug=true shows where"


if __name__ == "__main__":
    main()
