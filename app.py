"""The CDK app: one stage, chosen by `-c stage=…`, all of its stacks, checked by the policy gate.

    .venv/bin/python app.py     is a full synth: context in CDK_CONTEXT_JSON, output in CDK_OUTDIR

`-c validate=true` checks the templates against CloudFormation's schemas, too; `-c debug=true`, or `--debug` with
`python app.py`, shows the traceback of a failure.
"""

# ruff: noqa: E402 (the lines between the imports must come before the next ones)

import atexit
import gc
import os
import sys
from pathlib import Path

# Imports and synth make a million objects that live to the end: looking for garbage among them only costs time, also
# when the interpreter ends, which is done with what is frozen.
gc.disable()
atexit.register(gc.freeze)
_ROOT = Path(__file__).resolve().parent
# `constructs/` is a source root: it holds edge_constructs and edge_handlers, and is no package itself. With
# PYTHONSAFEPATH Python leaves out the script's own folder, too.
sys.path[1:1] = [str(_ROOT), str(_ROOT / "constructs")]

from config.endings import settle_endings

# Ctrl-C comes during the imports, too.
if __name__ == "__main__":
    settle_endings()

from tools.node import import_beside_node, keep_compiled, settle_jsii

# jsii reads it when aws_cdk is imported.
settle_jsii(os.environ)
if __name__ == "__main__":
    keep_compiled(os.environ)
    import_beside_node()
import aws_cdk  # noqa: F401 (waits for Node, meanwhile the thread imports what the next lines want)

from config.kept_answers import FILE, KEPT
from config.loader import DEFAULT_STAGE, ConfigurationError, load_stage, read_context
from config.places import ASSETS
from edge_constructs.edge_assets import MissingAssetError
from edge_constructs.model_source import ModelDeclarationError
from edge_constructs.reproducible_zip import StrangerError
from edge_constructs.synth import PolicyGate, PolicyViolationError, describe, left_out, new_app, room
from stacks.edgewright import define_stacks

#: Mistakes of the user: their text says all.
_EXPECTED = (ConfigurationError, MissingAssetError, ModelDeclarationError, PolicyViolationError, StrangerError)


def main() -> None:
    """Synthesise the stage; a failure ends with exit code 1 and what, where and how to fix it, not with a traceback."""
    debug = "--debug" in sys.argv[1:]
    KEPT.keep_in(FILE)
    try:
        app = new_app(read_context())
        debug = debug or app.node.try_get_context("debug") == "true"
        gate = PolicyGate(app, templates=app.node.try_get_context("validate") == "true")
        define_stacks(app, load_stage(app.node.try_get_context("stage") or DEFAULT_STAGE))
        sys.stderr.write(room(gate.synth()) + left_out(ASSETS))
    except Exception as exc:
        if debug:
            raise
        sys.exit(str(exc) if isinstance(exc, _EXPECTED) else describe(exc, _ROOT))


if __name__ == "__main__":
    main()
