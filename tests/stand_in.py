"""Programs that stand for others in a test: executable files in Python that start wherever the interpreter lies."""

import os
import shlex
import sys
from pathlib import Path

# The kernel takes one word of at most 127 or 255 bytes after `#!`: a path with a space or a deep one is no interpreter.
# Here the shell starts it; for Python the shell's line is a string that nobody reads.
_FRAME = """#!/bin/sh
'''exec' {command} -IS "$0" "$@"
' '''
{code}"""


#: What this interpreter needs in an environment that is not the caller's: some start only with the loader's path.
NEEDED = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def write_stand_in(path: Path, code: str) -> Path:
    """Write an executable program in Python: standard library only, and nothing of the caller's Python settings.

    Args:
        path: Of the program, replaced if it is there; its name is that of `sys.argv[0]`.
        code: What it does.

    Returns:
        The path.
    """
    needed = ["/usr/bin/env", *(f"{name}={value}" for name, value in NEEDED.items())] if NEEDED else []
    path.write_text(_FRAME.format(command=shlex.join([*needed, sys.executable]), code=code), encoding="utf-8")
    path.chmod(0o755)
    return path
