"""The plan of a pull request as a page to keep: `out/plan.html`."""

import re

from markdown_it import MarkdownIt

from twin.page.html import page

#: What the Markdown has of HTML; everything else in it is text.
_TAGS = (
    (r"<p>&lt;details&gt;&lt;summary&gt;(.*?)&lt;/summary&gt;</p>", r"<details><summary>\1</summary>"),
    (r"<p>&lt;/details&gt;</p>", "</details>"),
    (r"&lt;sub&gt;(.*?)&lt;/sub&gt;", r"<small>\1</small>"),
    (r"<table>", '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'),
    (r"</table>", "</table></div>"),
)


def as_page(markdown: str, lead: str) -> str:
    """Write a plan as a page.

    Args:
        markdown: The comment of the pull request, bill included.
        lead: What is compared with what.
    """
    title, _, text = markdown.partition("\n")
    # A tag ends a block on GitHub, and a block of HTML needs an empty line before Markdown goes on.
    text = text.replace("> [!CAUTION]", "> **Not announced:**\n>").replace("```\n</details>", "```\n\n</details>\n")
    content = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for pattern, tag in _TAGS:
        content = re.sub(pattern, tag, content, flags=re.DOTALL)
    return page(title.lstrip("# "), lead, [("", content)])
