"""Templates of a stage, synthesised once a process."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tools.node import node_binary

# jsii reads it when aws_cdk is imported, which the fixtures below do later.
os.environ.setdefault("JSII_NODE", str(node_binary()))


@cache
def assembly(stage: str) -> Path:
    """Synthesise a stage through the gate; the folder lives as long as the process."""
    from config.loader import load_stage
    from edge_constructs.synth import PolicyGate, new_app, read_context
    from stacks.edgewright import define_stacks

    folder = tempfile.TemporaryDirectory(prefix="edgewright-synth-")
    _KEPT.append(folder)
    app = new_app(read_context(), outdir=Path(folder.name))
    gate = PolicyGate(app)
    define_stacks(app, load_stage(stage))
    return gate.synth()


@cache
def template(stage: str, stack: str) -> dict[str, Any]:
    """Read the template of one stack, such as `Storage`."""
    content: dict[str, Any] = json.loads((assembly(stage) / f"{stack}.template.json").read_text(encoding="utf-8"))
    return content


def stacks(stage: str) -> list[str]:
    """Construct ids of a stage's stacks, sorted."""
    return sorted(path.name.removesuffix(".template.json") for path in assembly(stage).glob("*.template.json"))


def resources(stage: str, stack: str, kind: str) -> list[dict[str, Any]]:
    """The resources of one type in a stack."""
    return [found for found in template(stage, stack)["Resources"].values() if found["Type"] == kind]


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
