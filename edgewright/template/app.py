"""The CDK app: one stage, chosen by `-c stage=…`, the twin's by default; every synth is checked.

Your own stacks go beside `define_stacks`: the gate checks them, too.
"""

import sys

from edgewright import settle_endings

# Ctrl-C comes during the imports, too: it ends the program in a line.
if __name__ == "__main__":
    settle_endings()

from edgewright import (
    ConfigurationError,
    MissingAssetError,
    ModelDeclarationError,
    PolicyGate,
    PolicyViolationError,
    StrangerError,
    define_stacks,
    load_stage,
    new_app,
    read_context,
)


def main() -> None:
    """Synthesise the stage; a mistake is told in words."""
    try:
        app = new_app(read_context())
        gate = PolicyGate(app)
        define_stacks(app, load_stage(app.node.try_get_context("stage") or "twin"))
        gate.synth()
    except (
        *(ConfigurationError, MissingAssetError, ModelDeclarationError),
        *(PolicyViolationError, StrangerError),
    ) as mistake:
        sys.exit(str(mistake))


if __name__ == "__main__":
    main()
