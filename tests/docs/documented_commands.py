"""The commands that the documentation names, and the set-up that it names for them."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/reference/*.md",
    "docs/decisions/*.md",
    "benchmarks/*.md",
)
#: The set-ups that share .venv; the others have .venv-<name> each.
COMMON = ("setup", "setup-dev")
#: In the order of a snippet: what sets up, and what is run. Words end where a shell, or a sentence, has something else.
PATTERN = re.compile(
    r"(?:^|[\s;&(|])"
    r"(?:make (?P<target>[a-z][\w-]*)(?P<settings>(?: [A-Z_]+=\S+)*)"
    r"|(?:(?:\./)?\.venv(?P<own>-\w+)?/bin/)?python3? (?P<program>-m [\w.]+|\w+/\w+\.py)(?P<words>[^\n&|;)`#]*)"
    r"|(?P<own_command>edgewright (?=[a-z])(?!import\b)[^\n&|;)`#]*)"
    r"|npx cdk (?P<cdk>[^\n&|;)`#]*))"
)


@dataclass(frozen=True)
class Command:
    """A command as a page names it.

    Args:
        page: Where.
        kind: `python`, `make` or `cdk`.
        setup: The make target that the page names for it; for `python` only.
        words: What follows `python`, `make` or `cdk`.
    """

    page: str
    kind: str
    setup: str
    words: tuple[str, ...]

    @property
    def leading(self) -> tuple[str, ...]:
        """The words before the first flag, which may name a command's own commands."""
        first = 2 if self.words[0] == "-m" else 1
        rest = self.words[first:]
        flag = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
        return self.words[: first + flag]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags, without their values."""
        return tuple(
            word.partition("=")[0] for word in self.words[len(self.leading) :] if re.match(r"--?[A-Za-z]", word)
        )

    def __str__(self) -> str:
        return f"{self.page}: {self.kind} {shlex.join(self.words)}"


def documented() -> list[Command]:
    """Every command of the pages, and of the module texts of tools and benchmarks, each once a page."""
    found: dict[Command, None] = {}
    for pattern in PAGES:
        for page in sorted(ROOT.glob(pattern)):
            found |= dict.fromkeys(commands_of(str(page.relative_to(ROOT)), _code(page.read_text(encoding="utf-8"))))
    for folder, default in (("tools", "setup"), ("benchmarks", "setup-dev")):
        for file in sorted((ROOT / folder).glob("[a-z]*.py")):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            named = re.search(r"`make (setup(?:-dev)?)`", text)
            snippet = re.sub(r"(?<=\S)  +.*", "", text).replace("`", "\n")  # two spaces stand before an explanation
            found |= dict.fromkeys(commands_of(f"{folder}/{file.name}", [snippet], named[1] if named else default))
    return list(found)


def commands_of(page: str, snippets: list[str], default: str = "setup") -> Iterator[Command]:
    """Take the commands out of a page's code.

    A command in .venv needs the set-up that the page named last before it; one in .venv-x needs `make setup-x`.

    Args:
        page: Its path.
        snippets: Code, in the order of the page.
        default: What holds until a set-up is named.
    """
    setup = default
    for snippet in snippets:
        for match in PATTERN.finditer(re.sub(r"\s#.*", "", snippet)):
            if target := match["target"]:
                setup = target if target in COMMON else setup
                yield Command(page, "make", "", (target, *match["settings"].split()))
            elif match["program"]:
                words = (*match["program"].split(), *_words(match["words"]))
                yield Command(page, "python", f"setup{match['own']}" if match["own"] else setup, words)
            elif match["own_command"]:
                # The wheel's, by the module that it starts.
                words = ("-m", "edgewright.cli", *_words(match["own_command"].partition(" ")[2]))
                yield Command(page, "python", setup, words)
            else:
                yield Command(page, "cdk", "", _words(match["cdk"]))


def _code(markdown: str) -> list[str]:
    found = []
    for token in MarkdownIt().enable("table").parse(markdown):
        if token.type == "fence":
            found.append(token.content)
        found += [child.content for child in token.children or () if child.type == "code_inline"]
    return found


def _words(text: str) -> tuple[str, ...]:
    """Split as a shell does; brackets mark what may be left out."""
    words = shlex.split(text if "'" in text else re.sub(r"[\[\]]", " ", text))
    return tuple(word for word in words if word.strip(".…"))
