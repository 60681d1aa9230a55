"""A headless Chromium, driven by playwright-core, and the live page of a twin for it: for tests and screenshots."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tools.cdk_cli import ROOT
from tools.node import node_binary

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
HOW = "the browser tests need a Chromium: apt-get install chromium, or Google Chrome on macOS; then run them again"
_LIMIT_S = 120.0


def find() -> str | None:
    """The browser of this machine, if it has one."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or (_MAC if Path(_MAC).exists() else None)


class BrowserError(Exception):
    """A command failed in the browser, or did not end in time."""


class Browser:
    """A browser with one page.

    Args:
        commands: Standard input of browser.mjs.
        results: Its standard output.
    """

    def __init__(self, commands: IO[str], results: IO[str]) -> None:
        self._commands = commands
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(results, self._lines), daemon=True).start()

    def do(self, command: str, **arguments: Any) -> Any:
        """Give a command and wait for its result.

        Raises:
            BrowserError: It failed, or took two minutes longer than it may.
        """
        self._commands.write(json.dumps({"command": command, **arguments}) + "\n")
        self._commands.flush()
        try:
            line = self._lines.get(timeout=_LIMIT_S + float(arguments.get("limit_s", 0)))
        except queue.Empty:
            raise BrowserError(f"{command} {arguments} must end in time, it did not") from None
        told = json.loads(line) if line else {"error": "the browser ended"}
        if "error" in told:
            raise BrowserError(f"{command} {arguments}: {told['error']}")
        return told["value"]

    def wait(self, code: str, limit_s: float = 60) -> None:
        """Wait until an expression in the page is true."""
        self.do("wait", code=code, limit_s=limit_s)


def _read(lines: IO[str], into: queue.SimpleQueue[str]) -> None:
    for line in lines:
        into.put(line)
    into.put("")


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """Run a browser while in the block.

    Args:
        executable: From `find`.
    """
    sandbox = "none" if os.geteuid() == 0 else "own"  # Chromium refuses to be root's with its sandbox
    process = subprocess.Popen(
        [str(node_binary()), str(Path(__file__).with_name("browser.mjs")), executable, sandbox],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise BrowserError("the driver must have pipes, it has none")
        yield Browser(process.stdin, process.stdout)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def page_of(home: Path) -> Iterator[tuple[str, int]]:
    """Serve the page of a twin by its command; gives its address and pid.

    Args:
        home: The twin's state folder.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "twin", "ui"],
        env={**os.environ, "TWIN_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        said = process.stdout.readline().split() if process.stdout is not None else []
        if not said:
            raise BrowserError("the page must say its address, it ended: run python -m twin ui to see why")
        yield said[-1], process.pid
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
