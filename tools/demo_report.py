"""What a demo showed, as a page to keep: `out/demo.html`, made of `out/demo.json`.

python -m tools.demo_report out/demo.json
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

from tools.bill import bill_of
from tools.cloud_assembly import read_assembly
from tools.detections import drawn
from tools.predictions import SCENES, Scene, scores_of, truths_on_scenes
from twin.page.html import figure, histogram, matrix, page, pictures, table, time_line
from twin.predict import sample_of
from twin.state import TwinState
from twin.status import find_logs, take_status

_FETCHED = re.compile(r"component (\S+) (\S+), artifact \S+?([^/\s]+): fetched (\d+) bytes")
SHOWN = 44
#: Scenes with boxes, and their longer side.
SCENES_SHOWN, SCENE_PIXELS = 9, 288
Download = dict[str, Any]


def downloads_of(state: TwinState) -> list[Download]:
    """Read in the logs of a twin's devices what each has downloaded: component, version, file, bytes; in its order."""
    things = {server.instance_id: server.thing_name for server in take_status(state).edge_servers}
    found: list[Download] = []
    for name, path in find_logs(state.home, "core_device").items():
        device = name.partition("/")[0]
        for component, version, file, size in _FETCHED.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.append(
                {"device": things.get(device, device), "component": component, "version": version, "file": file}
                | {"bytes": int(size)}
            )
    return found


def bill_as_dict(assembly: Path) -> dict[str, Any]:
    """What the stage of an assembly would cost on AWS in a month."""
    bill = bill_of(read_assembly(assembly))
    return {**bill.as_dict(), "prices": bill.prices.standing}


def as_page(report: Mapping[str, Any]) -> str:
    """The content of `demo.json` as a page."""
    digits, flowers, scenes = report["predictions"], report["iris"], report["scenes"]
    latencies = [each["latency_ms"] for each in digits]
    middle, late = (quantiles(latencies, n=100, method="inclusive")[place] for place in (49, 98))
    left = report["leftovers"]
    head = (
        figure(f"right of {len(digits)} digits", f"{report['accuracy']:.1%}"),
        figure(f"right of {len(flowers)} flowers", f"{report['iris_accuracy']:.1%}"),
        figure(f"precision on {len(scenes)} scenes", f"{report['mean_average_precision']:.3f}"),
        figure("latency on the device, p50", f"{middle:.2f} ms"),
        figure("p99", f"{late:.2f} ms"),
        figure("deploy", f"{report['deploy_s']:.1f} s"),
        figure("left after the destroy", ", ".join(left) or "nothing"),
    )
    steps = [(each["name"], each["seconds"], each["words"]) for each in report["steps"]]
    whole = sum(each["seconds"] for each in report["steps"])
    sections = [
        ("", f"<dl>{''.join(head)}</dl>"),
        (f"Steps: {whole:.0f} s", time_line(steps)),
        ("Digits: the wrong ones first, then those of least certainty", _digits(digits)),
        ("Which digit is taken for which", _confusion(digits)),
        ("Which flower is taken for which", _confusion(flowers)),
        ("Digits found on scenes: where the device sees one, and where one is (green)", _scenes(scenes)),
        ("Latency on the device", histogram(latencies, "digits by latency", "ms")),
        ("A photograph that the device looks at by itself", _photograph(report["image_classification"])),
        ("What each device downloaded", _downloads(report["downloads"])),
        ("What a month of this stage would cost on AWS", _bill(report["bill"])),
        ("What was left", _left(left)),
    ]
    lead = "Deployed by the CDK to the twin on this machine, predicted on its core device, destroyed."
    return page("Edgewright: what the demo showed", lead, sections)


def _confusion(predictions: Sequence[Mapping[str, Any]]) -> str:
    labels = sorted({each["expected"] for each in predictions} | {each["label"] for each in predictions})
    return matrix(labels, [(each["expected"], each["label"]) for each in predictions])


def _digits(predictions: Sequence[Mapping[str, Any]]) -> str:
    shown = list(_judged(predictions))
    more = f"<details><summary>The other {len(shown) - SHOWN}</summary>{pictures(shown[SHOWN:])}</details>"
    return pictures(shown[:SHOWN]) + (more if len(shown) > SHOWN else "")


def _judged(predictions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[bytes, str, str, str, bool]]:
    for each in sorted(predictions, key=lambda each: (each["label"] == each["expected"], each["probability"])):
        wrong = each["label"] != each["expected"]
        more = f"is {each['expected']}, {each['probability']:.3f}" if wrong else f"{each['probability']:.3f}"
        picture, _ = sample_of("digits", each["index"])
        yield picture, f"sample {each['index']}, a {each['expected']}", f"said {each['label']}", more, wrong


def _scenes(scenes: Sequence[Scene]) -> str:
    """Those on which the most is wrong first."""
    there = truths_on_scenes()

    def shown() -> Iterator[tuple[bytes, str, str, str, bool]]:
        for scene in scenes:
            index, found = scene["index"], scores_of(scene)
            said, right = (sorted(each.label for each in some) for some in (found, there[index]))
            picture = drawn(sample_of(SCENES, index)[0], found, there[index], SCENE_PIXELS)
            more = f"has {', '.join(right)}" if said != right else ""
            yield picture, f"scene {index}", ", ".join(said) or "nothing", more, said != right

    ordered = sorted(shown(), key=lambda each: not each[-1])[:SCENES_SHOWN]
    return pictures(ordered, large=True)


def _photograph(picture: Mapping[str, Any]) -> str:
    rows = [(each["Label"], f"{each['Score']:.3f}") for each in picture["results"]]
    return table(picture["description"], ("label", "score"), rows, (1,))


def _downloads(downloads: Sequence[Download]) -> str:
    rows = [
        (each["device"], each["component"], each["version"], each["file"], f"{each['bytes']:,}") for each in downloads
    ]
    whole = f"{sum(each['bytes'] for each in downloads):,} bytes in {len(downloads)} files"
    return table(whole, ("device", "component", "version", "file", "bytes"), rows, (4,))


def _bill(bill: Mapping[str, Any]) -> str:
    rows = [(each["item"], f"{each['usd']:.2f}", each["basis"]) for each in bill["items"]]
    caption = f"{bill['total']:.2f} USD a month in {bill['region']}, list {bill['prices']}, without free tiers"
    return table(caption, ("item", "USD", "basis"), rows, (1,))


def _left(resources: Sequence[str]) -> str:
    if not resources:
        return "<p>Nothing, but for the stack of <code>cdk bootstrap</code>.</p>"
    return table("resources", ("kind", "name"), [each.split(": ", 1) for each in resources])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=Path, help="a demo's figures, such as out/demo.json")
    parser.add_argument("--out", type=Path, help="the page; by default beside the figures")
    options = parser.parse_args(arguments)
    out: Path = options.out or options.report.with_suffix(".html")
    try:
        out.write_text(as_page(json.loads(options.report.read_text(encoding="utf-8"))), encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as exc:
        text = f"{type(exc).__name__}: {exc}: make it anew with make demo"
        print(f"demo_report: the report must be a demo's demo.json, got {options.report}: {text}", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
