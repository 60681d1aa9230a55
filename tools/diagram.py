"""Draws docs/architecture.svg from the templates: stacks, what is in them, and which needs which.

python -m tools.diagram [--stage dev] [--assembly cdk.out] [--out docs/architecture.svg]
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from edge_rules.fleet_view import FleetView
from tools.cloud_assembly import ROOT, AssemblyError, synth

DRAWING = ROOT / "docs" / "architecture.svg"
_WIDTH, _LINE, _GAP_X, _GAP_Y, _PAD = 250, 16, 60, 40, 12
#: What holds others together and tells nothing about the architecture.
_LEFT_OUT = {"AWS::IAM::Policy", "AWS::Logs::LogGroup", "AWS::S3::BucketPolicy", "AWS::CDK::Metadata"}


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
    """
    view = FleetView.read(sorted(assembly.glob("*.template.json")))
    needs = _needs(assembly, view)
    contents = {stack: _contents(view, stack) for stack in view.templates}
    places, width, height = _layout(needs, contents)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        "<title>Stacks, what they hold, and which needs which</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#567"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for stack, needed in sorted(needs.items()):
        for other in sorted(needed):
            lines.append(_arrow(places[stack], places[other], len(contents[other])))
    for stack, (x, y) in sorted(places.items()):
        lines += _box(stack, contents[stack], x, y)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _needs(assembly: Path, view: FleetView) -> dict[str, set[str]]:
    """Stack to the stacks that it needs directly: what another one needs already is left out."""
    artifacts = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    needs = {
        stack: set(artifacts.get(stack, {}).get("dependencies", [])) & set(view.templates) for stack in view.templates
    }
    return {
        stack: {other for other in direct if not any(other in _all(needs, third) for third in direct - {other})}
        for stack, direct in needs.items()
    }


def _all(needs: Mapping[str, set[str]], stack: str) -> set[str]:
    found = set(needs[stack])
    for other in needs[stack]:
        found |= _all(needs, other)
    return found


def _contents(view: FleetView, stack: str) -> list[str]:
    counts = Counter(each.type for each in view.resources if each.stack == stack and each.type not in _LEFT_OUT)
    names = {kind: kind.removeprefix("AWS::").replace("::", " ") for kind in counts}
    return [f"{count} x {names[kind]}" if count > 1 else names[kind] for kind, count in sorted(counts.items())]


def _height(lines: Sequence[str]) -> int:
    return (len(lines) + 1) * _LINE + 2 * _PAD


def _layout(
    needs: Mapping[str, set[str]], contents: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[int, int]], int, int]:
    """Rows from what needs nothing to what needs most."""

    def depth(stack: str) -> int:
        return 1 + max((depth(other) for other in needs[stack]), default=-1)

    rows: dict[int, list[str]] = {}
    for stack in sorted(needs):
        rows.setdefault(depth(stack), []).append(stack)
    places, y = {}, _GAP_Y
    for _, stacks in sorted(rows.items()):
        for number, stack in enumerate(stacks):
            places[stack] = (_GAP_X + number * (_WIDTH + _GAP_X), y)
        y += max(_height(contents[stack]) for stack in stacks) + _GAP_Y
    width = _GAP_X + max(len(stacks) for stacks in rows.values()) * (_WIDTH + _GAP_X)
    return places, width, y


def _box(stack: str, lines: Sequence[str], x: int, y: int) -> list[str]:
    drawn = [
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_height(lines)}" rx="6" fill="#eef4fa" stroke="#567"/>',
        f'<text x="{x + _PAD}" y="{y + _PAD + 10}" font-weight="bold">{escape(stack)}</text>',
    ]
    for number, line in enumerate(lines, 1):
        drawn.append(f'<text x="{x + _PAD}" y="{y + _PAD + 10 + number * _LINE}">{escape(line)}</text>')
    return drawn


def _arrow(start: tuple[int, int], end: tuple[int, int], end_lines: int) -> str:
    x1, y1 = start[0] + _WIDTH // 2, start[1]
    x2, y2 = end[0] + _WIDTH // 2, end[1] + (end_lines + 1) * _LINE + 2 * _PAD
    return f'<path d="M{x1} {y1}L{x2} {y2}" fill="none" stroke="#567" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    sys.exit(main())
