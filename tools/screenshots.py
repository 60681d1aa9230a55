"""Makes the pictures of the live page in docs/: deploys to a twin of its own, asks, looks with a headless Chromium.

python -m tools.screenshots
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from config.names import Names
from tools.browser import HOW, Browser, BrowserError, browser, find, page_of
from tools.cdk_cli import ROOT, CdkError
from tools.offline_deploy import DeploymentError, OfflineDeploy
from twin import lifecycle
from twin.devices import own_devices
from twin.errors import TwinError
from twin.files import private_folder
from twin.operator import OperatorClient
from twin.state import TwinState

STAGE = "twin"
LIMIT_BYTES = 200_000
_DEVICES = 3
_COLOURS = 128  # a page has few, and a third of the bytes
_DRAWN = [[(0.32, 0.25), (0.68, 0.25), (0.5, 0.52), (0.42, 0.82)], [(0.36, 0.53), (0.62, 0.53)]]  # a seven


def take(chromium: Browser, url: str, state: TwinState, out: Path) -> list[Path]:
    """Ask for a while, then take the pictures.

    Args:
        chromium: The browser.
        url: The page's.
        state: Of the twin.
        out: Their folder.

    Returns:
        The files: wide, and narrow in dark.
    """
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
            own_devices.set_count(state, _DEVICES, group=Names(STAGE).thing_group, dialect="lite")
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
