"""Runs Python programs as in an environment that lacks some packages; its orders come as JSON on standard input.

`{"hidden": [MODULE …], "shared": [MODULE …], "commands": [[…] …], "limit_s": N}`: top-level modules that are not
found, modules that are loaded once for all programs (where they are found), and what would stand behind `python`.
Standard output gets `[[exit code, output] …]` in the order of the commands. Each program is a fork: loading boto3 or
rich again for every one would take most of the time.
"""

import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import IO, Any


class VisiblePackages(PathFinder):
    """Finds what Python finds, but for the hidden modules."""

    hidden: frozenset[str] = frozenset()

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in cls.hidden:
            return None
        return super().find_spec(fullname, path, target)


def hide(modules: Sequence[str]) -> None:
    """From now on the modules are not found."""
    VisiblePackages.hidden = frozenset(modules)
    for name in list(sys.modules):
        if name.partition(".")[0] in VisiblePackages.hidden:
            del sys.modules[name]  # a start-up file of the environment may have loaded it
    sys.meta_path[sys.meta_path.index(PathFinder)] = VisiblePackages


def run(command: Sequence[str]) -> None:
    """Do what the interpreter does with the same arguments."""
    if command[0] == "-m":
        sys.path[0], sys.argv = str(Path.cwd()), list(command[1:])
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(command[0]).resolve().parent), list(command)
        runpy.run_path(command[0], run_name="__main__")


def start(command: Sequence[str], output: IO[bytes]) -> int:
    """Fork a process that runs a command; its process id."""
    if pid := os.fork():
        return pid
    code = 1
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    try:
        run(command)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as the interpreter ends
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the commands, as many at a time as there are processors."""
    order = json.load(sys.stdin)
    hide(order["hidden"])
    for module in order["shared"]:
        with suppress(ModuleNotFoundError):
            import_module(module)
    waiting = list(enumerate(order["commands"]))
    results: list[tuple[int, str]] = [(1, "")] * len(waiting)
    running: dict[int, tuple[int, float, IO[bytes]]] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            place, command = waiting.pop(0)
            output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when its process has ended
            running[start(command, output)] = place, time.monotonic() + order["limit_s"], output
        time.sleep(0.01)
        for pid, (place, end, output) in list(running.items()):
            if time.monotonic() > end:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                output.seek(0)
                results[place] = os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")
                output.close()
                del running[pid]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
