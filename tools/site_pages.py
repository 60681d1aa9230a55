"""What the documentation's site takes from outside of docs/: the benchmarks. A hook of mkdocs."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, *, config: Any) -> Files:
    """Add benchmarks/*.md, which pages link to, to the files of docs/."""
    for page in sorted((ROOT / "benchmarks").glob("*.md")):
        files.append(File.generated(config, f"benchmarks/{page.name}", abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's text as the site has it: links to benchmarks lead into the site."""
    inward = re.sub(r"\]\(\.\./((?:\.\./)*benchmarks/)", r"](\1", markdown)
    return inward.replace("](../docs/", "](../")
