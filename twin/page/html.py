"""Templates filled in; and pages to keep: one HTML file each, without scripts or anything else from a network."""

import base64
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path

_PLACE = re.compile(r"\{\{(\w+)\}\}|\{\{\{(\w+)\}\}\}")


@cache
def text_of(name: str) -> str:
    """A file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def filled(template: str, /, **values: object) -> str:
    """A template of this folder with its places filled in: {{text}} is escaped, {{{html}}} is not."""
    # In one pass: what a device says may look like a place, too.
    return _PLACE.sub(
        lambda place: escape(str(values[place[1]])) if place[1] else str(values[place[2]]), text_of(template)
    )


def document(title: str, body: str, *, asked_again: bool = True) -> str:
    """A page of the server's, which a browser without scripts asks for again every 5 seconds.

    Args:
        title: Plain text.
        body: HTML.
        asked_again: Whether what it shows changes.
    """
    again = '<noscript><meta http-equiv="refresh" content="5"></noscript>' if asked_again else ""
    return filled("document.html", title=title, again=again, body=body)


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
    return filled("kept.html", title=title, lead=lead, style=text_of("kept.css"), body=body)


def figure(what: str, value: str, *, bad: bool = False) -> str:
    """A large figure of a list: what, how much, and whether that is bad."""
    return f"<div{' class=bad' if bad else ''}><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>"


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
    return filled("table.html", caption=caption, kind="plain", head=heading, rows=lines)


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
    counts = Counter(pairs)

    def cell(expected: str, said: str) -> str:
        count = counts[expected, said]
        kind = "none" if not count else "right" if expected == said else "wrong"
        return f'<td class="{kind}">{count}</td>'

    heading = "".join(f'<th scope="col">{escape(label)}</th>' for label in ("is \\ said", *labels))
    lines = "".join(
        f'<tr><th scope="row">{escape(label)}</th>{"".join(cell(label, said) for said in labels)}</tr>'
        for label in labels
    )
    caption = "A row is what a sample is, a column what the device said"
    return filled("table.html", caption=caption, kind="matrix", head=heading, rows=lines)


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
    counts = Counter(min(bisect(edges, value), bars) - 1 for value in values)
    rows = [(f"{low:.3f} to {high:.3f}", str(counts[place])) for place, (low, high) in enumerate(pairwise(edges))]
    width, unit_height = 720 / bars, 160 / max(counts.values())
    drawn = "".join(
        f'<rect x="{place * width:.1f}" y="{170 - unit_height * counts[place]:.1f}" width="{width - 2:.1f}" '
        f'height="{unit_height * counts[place]:.1f}"><title>{between} {unit}: {count}</title></rect>'
        for place, (between, count) in enumerate(rows)
    )
    ends = f'<text x="0" y="186">{least:.3f} {unit}</text><text x="720" y="186" text-anchor="end">{most:.3f} {unit}'
    label = f"{what} of {len(values)}, from {least:.3f} to {ordered[-1]:.3f} {unit}"
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
