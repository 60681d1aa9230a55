"""Pages to keep: one HTML file each, without scripts, fonts or anything else from a network."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fbfaf7; --card: #fff; --line: #d9d6cd; --soft: #5b6472;
  --accent: #0b6e8f; --good: #1f7a4d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --paper: #14171d; --card: #1c2129; --line: #363d49;
  --soft: #a6afbd; --accent: #58b9d9; --good: #5fc48f; --bad: #ff8f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.8rem; line-height: 1.2; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
.lead, figcaption, caption, small, summary { color: var(--soft); }
a { color: var(--accent); } code, pre { font: .9em ui-monospace, monospace; } pre { white-space: pre-wrap; }
blockquote { margin: 1rem 0; padding: .25rem 1rem; border-left: .3rem solid var(--bad); background: var(--card); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
dl div { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card); }
dt { color: var(--soft); font-size: .85rem; } dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .scroll table { min-width: min(100%, 30rem); }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: break-word; }
td.number, th.number { text-align: right; white-space: nowrap; } small { font-weight: 400; } th { font-weight: 600; }
.steps { width: 100%; } .steps td:last-child { width: 60%; min-width: 8rem; vertical-align: middle; padding-right: 0; }
.steps td:last-child div { height: .8rem; min-width: 3px; border-radius: .2rem; background: var(--accent); }
@media (max-width: 40rem) { .steps td:last-child { width: 25%; min-width: 4rem; } }
.scroll .matrix { min-width: 0; }
.matrix td, .matrix th { padding: .3rem; min-width: 2.2rem; text-align: center; border: 1px solid var(--line); }
.matrix .right { background: color-mix(in srgb, var(--good) 30%, transparent); }
.matrix .wrong { background: color-mix(in srgb, var(--bad) 35%, transparent); font-weight: 700; }
.matrix .none { color: var(--soft); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); gap: .5rem; padding: 0;
  list-style: none; } .pictures.large { grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); }
.pictures li { padding: .5rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--card);
  font-size: .85rem; line-height: 1.3; }
.pictures img { display: block; width: 100%; image-rendering: pixelated; margin-bottom: .35rem; border-radius: .25rem; }
.pictures .wrong { border: 2px solid var(--bad); } .pictures b { font-size: 1rem; } .wrong b { color: var(--bad); }
svg { display: block; width: 100%; max-width: 44rem; height: auto; fill: var(--accent); }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; } figure { margin: 0; }
@media print { body { max-width: none; } .pictures li { break-inside: avoid; } }
"""
#: Nothing is fetched, whatever a text in the page says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """Write a page.

    Args:
        title: Plain text.
        lead: A sentence below it, plain text.
        sections: Heading, plain, and content as HTML; an empty heading makes none.
    """
    body = "\n".join(
        f"<section>{f'<h2>{escape(heading)}</h2>' if heading else ''}\n{content}</section>"
        for heading, content in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n<style>{STYLE}</style></head>\n'
        f'<body><header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>\n'
        f"<main>{body}</main></body></html>\n"
    )


def figures(named: Iterable[tuple[str, str]]) -> str:
    """Large figures: what, and how much."""
    return f"<dl>{''.join(f'<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>' for what, value in named)}</dl>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that scrolls by itself where the window is narrow.

    Args:
        caption: What it shows.
        head: A column each.
        rows: Plain texts; the first one names its row.
        numbers: Columns to align to the right.
    """

    def cell(place: int, text: str, tag: str = "td", more: str = "") -> str:
        align = ' class="number"' if place in numbers else ""
        return f"<{tag}{align}{more}>{escape(text)}</{tag}>"

    heading = "".join(cell(place, text, "th", ' scope="col"') for place, text in enumerate(head))
    lines = "\n".join(
        "<tr>"
        + cell(0, row[0], "th", ' scope="row"')
        + "".join(cell(place, text) for place, text in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{heading}</tr></thead><tbody>\n{lines}</tbody></table></div>"
    )


def time_line(steps: Sequence[tuple[str, float, str]]) -> str:
    """Steps one after the other: name, seconds, what came of it."""
    whole, begun, rows = sum(seconds for _, seconds, _ in steps) or 1.0, 0.0, []
    for name, seconds, words in steps:
        bar = f"margin-left:{100 * begun / whole:.2f}%;width:{100 * seconds / whole:.2f}%"
        said = f"<br><small>{escape(words)}</small>" if words else ""
        rows.append(
            f'<tr><th scope="row">{escape(name)}{said}</th><td class="number">{seconds:.1f} s</td>'
            f'<td><div style="{bar}"></div></td></tr>'
        )
        begun += seconds
    head = '<tr><th scope="col">step</th><th scope="col" class="number">time</th><th scope="col">when</th></tr>'
    return f'<table class="steps"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


def matrix(labels: Sequence[str], pairs: Iterable[tuple[str, str]]) -> str:
    """A confusion matrix.

    Args:
        labels: In the order of rows and columns.
        pairs: What each is, and what was said of it.
    """
    counts: dict[tuple[str, str], int] = {}
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1

    def cell(expected: str, said: str) -> str:
        count = counts.get((expected, said), 0)
        kind = "none" if not count else "right" if expected == said else "wrong"
        return f'<td class="{kind}">{count}</td>'

    heading = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(cell(label, said) for said in labels)}</tr>'
        for label in labels
    )
    caption = "A row is what a sample is, a column what the device said"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table class="matrix">'
        f'<caption>{caption}</caption><thead><tr><th scope="col">is \\ said</th>{heading}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def histogram(values: Sequence[float], what: str, unit: str, bars: int = 24) -> str:
    """How often which value came; the slowest hundredth shares the last bar.

    Args:
        values: At least one.
        what: What they are.
        unit: Of the values.
        bars: How many.
    """
    ordered = sorted(values)
    least, most = ordered[0], max(ordered[int(0.99 * (len(ordered) - 1))], ordered[0] + 1e-9)
    edges = [least + (most - least) * place / bars for place in range(bars + 1)]
    counts = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    counts[-1] += sum(value >= edges[-1] for value in values)
    width, height, highest = 720 / bars, 160, max(counts)
    drawn = "".join(
        f'<rect x="{place * width:.1f}" y="{170 - height * count / highest:.1f}" width="{width - 2:.1f}" '
        f'height="{height * count / highest:.1f}"><title>{low:.3f} to {high:.3f} {unit}: {count}</title></rect>'
        for place, (count, (low, high)) in enumerate(zip(counts, pairwise(edges), strict=True))
    )
    ends = f'<text x="0" y="186">{least:.3f} {unit}</text><text x="720" y="186" text-anchor="end">{most:.3f} {unit}'
    label = f"{what} of {len(values)}, from {least:.3f} to {ordered[-1]:.3f} {unit}"
    rows = [
        (f"{low:.3f} to {high:.3f}", str(count)) for count, (low, high) in zip(counts, pairwise(edges), strict=True)
    ]
    return (
        f'<figure><svg viewBox="0 0 720 192" role="img" aria-label="{escape(label)}">{drawn}{ends} and more'
        f"</text></svg><figcaption>{escape(label)}</figcaption></figure>"
        f"<details><summary>As a table</summary>{table(what, (unit, 'how many'), rows, (1,))}</details>"
    )


def pictures(shown: Iterable[tuple[bytes, str, str, str, bool]], *, large: bool = False) -> str:
    """Pictures with what was said of them.

    Args:
        shown: PNG, what it shows, what was said, more words, and whether that was wrong.
        large: Two or three in a row instead of many.
    """
    items = "\n".join(
        f'<li{" class=wrong" if wrong else ""}><img alt="{escape(what)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"><b>{escape(said)}</b> {escape(more)}</li>'
        for png, what, said, more, wrong in shown
    )
    return f'<ul class="pictures{" large" if large else ""}">{items}</ul>'
