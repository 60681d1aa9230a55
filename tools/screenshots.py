"""Makes the pictures of the live page in docs/: deploys to a twin of its own, asks, looks with a headless Chromium.

python -m tools.screenshots
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image

from config.names import Names
from config.places import PROJECT as ROOT
from tools.node import node_binary
from tools.offline_deploy import CdkError, DeploymentError, OfflineDeploy
from twin import TwinError, lifecycle
from twin.devices.membership import set_own_devices
from twin.files import private_folder
from twin.operator import OperatorClient
from twin.state import TwinState

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
    """A browser with one page, driven by the standard input and output of browser.mjs."""

    def __init__(self, commands: IO[str], results: IO[str]) -> None:
        self._commands = commands
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            for line in results:
                self._lines.put(line)
            self._lines.put("")

        threading.Thread(target=read, daemon=True).start()

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


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """Run a browser, of which `find` says where it is, while in the block."""
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
    """Serve the page of the twin in a state folder by its command; gives its address and pid."""
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


STAGE = "twin"
LIMIT_BYTES = 200_000
_DEVICES = 3
_COLOURS = 128  # a page has few, and a third of the bytes
_DRAWN = [[(0.32, 0.25), (0.68, 0.25), (0.5, 0.52), (0.42, 0.82)], [(0.36, 0.53), (0.62, 0.53)]]  # a seven


def take(chromium: Browser, url: str, state: TwinState, out: Path) -> list[Path]:
    """Ask for a while, then take the page's pictures into a folder: wide, and narrow in dark."""
    names = Names(STAGE)
    chromium.do("open", url=url, width=1280, height=1960)
    chromium.wait(f"document.querySelectorAll('#devices tbody tr').length === {_DEVICES + 1}")
    # Each device has said how it is: a heartbeat comes once a minute.
    chromium.wait(f"document.querySelectorAll('#devices td b').length >= {3 * (_DEVICES + 1)}", 110)
    with OperatorClient(state) as operator:
        for index in range(40):
            model = ("iris", "digits", "digit-detector", "digits")[index % 4]
            row = {"features": [5.1 + index / 20, 3.5, 1.4 + index / 10, 0.2]}
            request = row if model == "iris" else {"index": index}
            operator.request(names.request_topic(model), request, names.response_topic(model), timeout_s=30)
            time.sleep(0.6)
    # The latencies come with the next heartbeat.
    latencies = (
        "[...document.querySelectorAll('#devices td li b')].filter((each) => /^(digits|iris)/.test(each.innerText))"
    )
    chromium.wait(f"{latencies}.every((each) => /[0-9] [/]/.test(each.parentElement.innerText))", 110)
    chromium.do("draw", on="#pad", strokes=_DRAWN)
    chromium.do("click", on="#ask button.main")
    chromium.wait("/says/.test(document.getElementById('answer').innerText)")
    chromium.wait("document.querySelectorAll('#predictions img').length > 4")
    chromium.do("evaluate", code="scrollTo(0, 0)")
    wide, narrow = out / "ui.png", out / "ui-narrow.png"
    chromium.do("screenshot", path=str(wide))
    chromium.do("open", url=url, width=390, height=1180, scheme="dark")
    chromium.wait("document.querySelectorAll('#predictions img').length > 4")
    chromium.do("screenshot", path=str(narrow))
    for path in (wide, narrow):
        Image.open(path).convert("RGB").quantize(_COLOURS).save(path, optimize=True)
        if (size := path.stat().st_size) > LIMIT_BYTES:
            raise BrowserError(f"{path} must have at most {LIMIT_BYTES} bytes, got {size}: make the window smaller")
    return [wide, narrow]


def main() -> int:
    """Deploy, take the pictures, and take everything away again."""
    argparse.ArgumentParser(prog="python -m tools.screenshots", description=(__doc__ or "").split("\n")[0]).parse_args()
    if (executable := find()) is None:
        print(f"screenshots: {HOW}", file=sys.stderr)
        return 1
    # Below this folder, so that the page says nothing of where it lies.
    private_folder(ROOT / "out")
    with tempfile.TemporaryDirectory(prefix="twin-", dir=ROOT / "out") as folder:
        home = Path(folder) / "twin"
        try:
            state = lifecycle.start(home)
            deploy = OfflineDeploy(environment=state.environment(), out=Path(folder) / "deploy", stage=STAGE)
            deploy.synth()
            deploy.bootstrap()
            deploy.deploy()
            set_own_devices(state, _DEVICES, group=Names(STAGE).thing_group, dialect="lite")
            with page_of(home) as (url, _pid), browser(executable) as chromium:
                for path in take(chromium, url, state, ROOT / "docs"):
                    print(path.relative_to(ROOT))
        except (BrowserError, CdkError, DeploymentError, TwinError) as exc:
            print(f"screenshots: {exc}", file=sys.stderr)
            return 1
        finally:
            lifecycle.stop(home, anyway=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
