"""What makes a clone work in one place and fail in another: interpreters in shebangs, line endings."""

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app_copy import git
from tests.stand_in import write_stand_in
from twin.ports import abort

ROOT = Path(__file__).resolve().parents[2]
#: Programs whose path has no space anywhere, and `#!python`, which an installer of wheels replaces.
INTERPRETERS = ("/bin/sh", "/bin/bash", "/usr/bin/env bash", "python")


def tracked(*patterns: str) -> list[Path]:
    return [
        ROOT / name for name in git("ls-files", "-z", "--", *patterns).split("\0") if name and (ROOT / name).exists()
    ]


def shebangs(source: str) -> Iterator[str]:
    """What the strings of a Python file have behind `#!`, up to the line's end or the first value put in."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        first = parts[0].value if parts and isinstance(parts[0], ast.Constant) else None
        text = first.decode(errors="replace") if isinstance(first, bytes) else first
        alone = isinstance(node, ast.Constant) and text == "#!"  # looked for, not written
        if isinstance(text, str) and text.startswith("#!") and not alone:
            yield text.splitlines()[0].removeprefix("#!")


def test_every_shebang_names_an_interpreter_that_lies_at_the_same_place_everywhere() -> None:
    found = {path: list(shebangs(path.read_text("utf-8"))) for path in tracked("*.py")}
    found |= {
        path: [line.removeprefix("#!")]
        for path in tracked("*.sh", ".ci/*")
        if (line := path.read_text("utf-8").split("\n")[0]).startswith("#!")
    }

    wrong = {str(path): lines for path, lines in found.items() if not set(lines) <= set(INTERPRETERS)}

    assert wrong == {}, "write_stand_in of tests/stand_in.py writes a program that starts everywhere"
    assert any(found.values())


@pytest.mark.parametrize(
    "source",
    ['f"#!{sys.executable} -IS\\n{code}"', '"#!{python}\\nimport os".format(python=p)', 'b"#!/opt/venv/bin/python\\n"'],
)
def test_a_shebang_with_a_path_of_this_machine_is_found(source: str) -> None:
    (found,) = set(shebangs(source))

    assert found not in INTERPRETERS


#: What Python 3.11.2, which Debian 12 brings, lacks: the keyword, and the one file that knows how to do without.
NEWER = {"filter": ("extract", "extractall", Path("twin/files.py"))}


def newer_keywords(source: str) -> Iterator[str]:
    """Calls with a keyword that not every supported Python has."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for keyword in node.keywords:
                if node.func.attr in NEWER.get(keyword.arg or "", ()):
                    yield f"line {node.lineno}: {node.func.attr}({keyword.arg}=…)"


def test_archives_are_unpacked_by_what_every_supported_python_has() -> None:
    found = {
        str(path.relative_to(ROOT)): list(newer_keywords(path.read_text("utf-8")))
        for path in tracked("*.py")
        if path.relative_to(ROOT) not in NEWER["filter"]
    }

    assert {path: calls for path, calls in found.items() if calls} == {}, "unpack of twin/files.py does it"
    assert list(newer_keywords('tar.extractall(folder, filter="data")'))


@pytest.mark.parametrize("name", ["python with space", "p'ü\"$HOME`", "deep/" * 60 + "python"])
def test_a_stand_in_starts_whatever_the_path_of_the_interpreter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / name
    interpreter.parent.mkdir(parents=True, exist_ok=True)
    interpreter.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(interpreter))

    program = write_stand_in(tmp_path / "a program", "import sys\nprint(sys.argv[1:], sys.stdin.read())\n")

    done = subprocess.run([program, "a b", "'"], input="said", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['a b', \"'\"] said\n"


def test_the_line_endings_of_every_file_are_declared() -> None:
    listed = [line.split("\t") for line in git("ls-files", "--eol", "-z").split("\0") if line]
    files = {name: tuple(facts.split(maxsplit=2)) for facts, name in listed}

    as_text = {
        name for name, facts in files.items() if facts[0] == "i/lf" and facts[2].startswith("attr/text=auto eol=lf")
    }
    no_text = {name for name, facts in files.items() if facts[2].startswith("attr/-text")}

    assert set(files) - as_text - no_text - empty(files) == set(), "say in .gitattributes what it is"


def empty(files: dict[str, tuple[str, ...]]) -> set[str]:
    """Files without contents, which have no line endings, and links."""
    return {name for name, facts in files.items() if facts[0] in {"i/none", "i/"}}


def test_commands_of_a_shell_quote_the_path_of_the_interpreter() -> None:
    found = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("*.py")
        if path != Path(__file__) and (lines := unquoted(path.read_text("utf-8")))
    }

    assert found == {}, "a clone may lie in a folder with a space: quote the path, or give a list of arguments"


def unquoted(source: str) -> list[str]:
    """Shell commands that name this interpreter without quotes."""
    return re.findall(r"exec \{sys\.executable\}.*", source)


def test_an_unquoted_interpreter_is_found() -> None:
    assert unquoted('run = f"exec {sys.executable} {script}"')
    assert not unquoted("f\"exec '{sys.executable}'\"")


class ClosedTwice(asyncio.Transport):
    """What Python 3.11.2 makes of a TLS transport that was closed twice."""

    def abort(self) -> None:
        """Fail as it does there."""
        raise AttributeError("'NoneType' object has no attribute '_abort'")


def test_a_connection_that_was_closed_twice_is_ended_without_an_error() -> None:
    abort(ClosedTwice())


@pytest.mark.parametrize("module", ["tools.doctor", "tools.plan", "twin"])
def test_an_interpreter_without_the_packages_is_told_what_brings_them(module: str) -> None:
    # -S: as the system's Python, in a shell that has not activated the environment.
    command = [sys.executable, "-S", "-m", module, "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert re.fullmatch(r".* must have \w+, it has not: make setup.* source \.venv/bin/activate\n", ended.stderr)


def test_an_interrupted_tool_shows_no_traceback_and_an_importing_program_keeps_its_own() -> None:
    def told(program: str) -> str:
        text = f"import sys; sys.argv[0] = {program!r}; import tools; raise KeyboardInterrupt"
        command = [sys.executable, "-S", "-c", text]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False).stderr

    assert told("-m") == "interrupted\n"
    assert "Traceback" in told("other")
