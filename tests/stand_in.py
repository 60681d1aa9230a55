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


def write_stand_in(path: Path, code: str) -> Path:
    """Write an executable program in Python: standard library only, and nothing of the caller's Python settings.

    Args:
        path: Of the program, replaced if it is there; its name is that of `sys.argv[0]`.
        code: What it does.

    Returns:
        The path.
    """
    command = [sys.executable]
    # An interpreter that is found by the loader's path only starts nowhere without it.
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        command = ["/usr/bin/env", f"LD_LIBRARY_PATH={libraries}", *command]
    path.write_text(_FRAME.format(command=shlex.join(command), code=code), encoding="utf-8")
    path.chmod(0o755)
    return path
