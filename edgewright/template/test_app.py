"""The app's own test: each stage is synthesised and passes EdgeChecks, cdk-nag's packs and whatever you add."""

from pathlib import Path

import pytest

from edgewright import PolicyGate, define_stacks, load_stage, new_app, read_context, stage_names


@pytest.mark.parametrize("stage", stage_names())
def test_passes_every_check(stage: str, tmp_path: Path) -> None:
    app = new_app(read_context(), outdir=tmp_path)
    gate = PolicyGate(app)
    define_stacks(app, load_stage(stage))

    templates = gate.synth()

    assert (templates / "Inference.template.json").is_file()
