"""Draws docs/architecture.svg from the templates: cloud and device, a model's way and a request's way.

python -m tools.diagram [--stage dev] [--assembly cdk.out] [--out docs/architecture.svg]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from edge_rules.fleet_view import FleetView
from edge_rules.recipe_view import Recipe, recipes
from tools.cloud_assembly import ROOT, AssemblyError, synth
from tools.node import node_binary

DRAWING = ROOT / "docs" / "architecture.svg"
#: Reads a graph in Graphviz' language, writes it as SVG. The package is Graphviz itself, built to WebAssembly.
_LAYOUT = """
import { readFileSync } from "node:fs";
import { Graphviz } from "@hpcc-js/wasm-graphviz";
process.stdout.write((await Graphviz.load()).dot(readFileSync(0, "utf8")));
"""
_LAYOUT_LIMIT_S = 60
#: What a stack is there for, in the words of people, in this order. The rest of its resources serve these.
_SAID = {
    "AWS::KMS::Key": "keys",
    "AWS::S3::Bucket": "buckets",
    "AWS::IoT::RoleAlias": "role alias",
    "AWS::IoT::Policy": "IoT policy",
    "AWS::IoT::ThingGroup": "thing groups, one a ring",
    "Custom::DeviceRegistry": "device registry",
    "AWS::IoT::ProvisioningTemplate": "joining by claim",
    "AWS::EC2::VPC": "network",
    "AWS::EC2::Instance": "EC2 instance",
    "Custom::NeoCompilation": "compilation job",
    "Custom::OnnxCompilation": "compilation",
    "Custom::ModelPackage": "signed package",
    "Custom::ComponentVersion": "component versions",
    "AWS::GreengrassV2::Deployment": "deployments, ring after ring",
    "Custom::DeploymentHealth": "health of rings",
    "AWS::IoT::TopicRule": "topic rules",
    "AWS::CloudWatch::Alarm": "alarms",
    "AWS::CloudWatch::Dashboard": "dashboard",
    "AWS::CodePipeline::Pipeline": "pipeline",
}
#: Ends a line of a label.
_NEXT = "\\n"
_MODEL, _REQUEST, _NEED = "#1f6feb", "#c2410c", "#8a94a0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.diagram", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", default="dev", help="stage to draw (default: %(default)s)")
    parser.add_argument("--assembly", type=Path, help="a cdk.out in place of a synth")
    parser.add_argument("--out", type=Path, default=DRAWING, help="the drawing (default: docs/architecture.svg)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="edgewright-diagram-") as made:
            folder = options.assembly or synth(ROOT, options.stage, Path(made) / "cdk.out")
            options.out.write_text(draw(folder), encoding="utf-8")
    except (AssemblyError, OSError, ValueError) as exc:
        print(f"diagram: {exc}", file=sys.stderr)
        return 1
    return 0


def draw(assembly: Path) -> str:
    """Draw a cloud assembly as SVG; equal architectures give equal text.

    Args:
        assembly: A `cdk.out`.

    Raises:
        ValueError: Graphviz did not lay the drawing out; the text has its reason.
    """
    command = [str(node_binary()), "--input-type=module", "--eval", _LAYOUT]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=graph(assembly),
            capture_output=True,
            text=True,
            timeout=_LAYOUT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"Graphviz must lay the drawing out within {_LAYOUT_LIMIT_S} s, and has not") from None
    if done.returncode or not done.stdout.startswith("<"):
        raise ValueError(f"Graphviz must be there, and could not be used: run make setup\n{done.stderr.strip()}")
    return done.stdout[done.stdout.index("<svg") :]


def graph(assembly: Path) -> str:
    """Write a cloud assembly as a graph in Graphviz' language.

    Args:
        assembly: A `cdk.out`.
    """
    view = FleetView.read(sorted(assembly.glob("*.template.json")))
    components = list(recipes(view))
    lines = [
        "digraph Edgewright {",
        'graph [fontname="Helvetica" fontsize=13 rankdir=TB nodesep=0.35 ranksep=0.6 bgcolor="#ffffff" compound=true]',
        'node [fontname="Helvetica" fontsize=11 shape=box margin="0.25,0.1" style="rounded,filled"]',
        'node [color="#56677a" fillcolor="#eef4fa"]',
        'edge [fontname="Helvetica" fontsize=10 arrowsize=0.7]',
        'source [label="model.onnx, model.json" shape=note fillcolor="#fffbe6"]',
        'client [label="client" shape=ellipse fillcolor="#fff1e8"]',
        'subgraph cluster_cloud { label="AWS, or the twin" style="rounded" color="#56677a"',
        *(_stack(view, stack) for stack in sorted(view.templates)),
        'topics [label="AWS IoT Core: topics" shape=cds fillcolor="#fff1e8"]',
        "}",
        'subgraph cluster_device { label="core device: nucleus" style="rounded" color="#56677a"',
        *(f'{_id(each.name)} [label="{_short(each.name)}" fillcolor="#eefaf0"]' for each in components),
        "}",
        *(f'{_id(other)} -> {_id(stack)} [color="{_NEED}" style=dashed]' for stack, other in _needs(assembly, view)),
        *_ways(view, components),
        _legend(),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    return '"' + name.replace('"', "") + '"'


def _short(name: str) -> str:
    """A component's name without the stage's part, which all have in common."""
    return name.split(".", 2)[-1]


def _stack(view: FleetView, stack: str) -> str:
    types = {each.type for each in view.resources if each.stack == stack}
    lines = [f"{stack} stack", *(said for kind, said in _SAID.items() if kind in types)]
    return f'{_id(stack)} [label="{_NEXT.join(lines)}"]'


def _needs(assembly: Path, view: FleetView) -> Iterator[tuple[str, str]]:
    """Stacks and what they need directly: what another one needs already is left out."""
    artifacts = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    needs = {
        stack: set(artifacts.get(stack, {}).get("dependencies", [])) & set(view.templates) for stack in view.templates
    }
    for stack, direct in sorted(needs.items()):
        for other in sorted(direct):
            if not any(other in _all(needs, third) for third in direct - {other}):
                yield stack, other


def _all(needs: Mapping[str, set[str]], stack: str) -> set[str]:
    return needs[stack].union(*(_all(needs, other) for other in needs[stack]))


def _ways(view: FleetView, components: Sequence[Recipe]) -> Iterator[str]:
    """A model's way from its file to the device, a request's way to the model and its answer's way back."""

    def holders(*kinds: str) -> list[str]:
        return sorted({each.stack for each in view.of_type(*kinds)})

    def way(start: str, end: str, color: str, label: str = "") -> str:
        both = " dir=both" if start in ("client", "topics") else ""
        return f'{start} -> {end} [color="{color}" penwidth=1.6 fontcolor="{color}" label="{label}"{both}]'

    packing, deploying = holders("Custom::ModelPackage"), holders("AWS::GreengrassV2::Deployment")
    asked = [each.name for each in components if any("mqttproxy" in kind for _, kind, _ in each.access())]
    # Who depends on whom on the device: a model is read by the component whose configuration names it.
    needed = {name: each.name for each in components for name in (*_dependencies(each), *_served(each))}
    for stack in packing:
        yield way("source", _id(stack), _MODEL)
        yield from (way(_id(stack), _id(other), _MODEL) for other in deploying if other != stack)
    first = [each.name for each in components if each.name not in asked]
    for stack in deploying:
        yield f'{_id(stack)} -> {_id(first[len(first) // 2])} [color="{_MODEL}" penwidth=1.6 lhead=cluster_device]'
    for name in sorted(needed.keys() & {each.name for each in components}):
        yield way(_id(name), _id(needed[name]), _MODEL)
    yield way("client", "topics", _REQUEST, "  requests, answers")
    for name in asked:
        yield way("topics", _id(name), _REQUEST)
    for stack in holders("AWS::IoT::TopicRule"):
        yield way(_id("topics"), _id(stack), _REQUEST, "  answers, heartbeats")


def _dependencies(recipe: Recipe) -> list[str]:
    return list(recipe.body.get("ComponentDependencies") or {})


def _served(recipe: Recipe) -> list[str]:
    """Components of the models that a component serves, composed as the device does."""
    pattern = str((recipe.configuration.get("eachModel") or {}).get("component", ""))
    names = recipe.configuration.get("models") or {}
    return [pattern.replace("{Model}", "".join(part.capitalize() for part in name.split("-"))) for name in names]


def _legend() -> str:
    rows = "".join(
        f'<tr><td align="left"><font color="{color}">{text}</font></td></tr>'
        for color, text in (
            (_MODEL, "— a model's way"),
            (_REQUEST, "— a request's way"),
            (_NEED, "- - is deployed before"),
        )
    )
    return f'legend [shape=plaintext style="" label=<<table border="0" cellspacing="0">{rows}</table>>]'


if __name__ == "__main__":
    sys.exit(main())
