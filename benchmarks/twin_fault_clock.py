"""The wall clock of a deployed twin's core device and component jumps ahead and back."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, DeployedTwin
from benchmarks.twin_fault_kills import ask
from benchmarks.twin_fault_s3 import captured
from benchmarks.waiting import wait_for
from tools.workload_predictions import PICTURE_TOPIC

#: As libfaketime takes it, and in days.
JUMPS = {"+1d": 1, "-2d": -2, "-3650d": -3650, "+0s": 0}
LOOK_S = 12.0
#: The picture is looked at every 5 s.
LONGEST_PAUSE_S = 7.5


@contextmanager
def faked_clock(twin: DeployedTwin, library: Path, offset: Path) -> Iterator[None]:
    """Run the core device under libfaketime while in the block: the cloud takes over a device that it finds running."""
    offset.write_text("+0s\n")
    given = twin.device.environ() | {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    root = twin.root
    twin.kill_cloud()
    twin.kill_device()
    command = [sys.executable, "-m", "benchmarks.faked_clock_device", "--config", str(root / "config.yaml")]
    with (root / "log" / "core_device.log").open("ab") as log:
        device = subprocess.Popen(command, cwd=root, env=given, stderr=log, start_new_session=True)
    try:
        twin.start_cloud()
        yield
    finally:
        # The next one is the cloud's, by the true clock.
        device.kill()
        device.wait(10)


def clock_jumps(twin: DeployedTwin, library: Path) -> dict[str, Any]:
    """Requests, intervals and a restart under each jump; the captures arrive once the clock is right again."""
    if not library.is_file():
        return {"skipped": f"{library} is not there: apt install libfaketime, or --faketime FILE"}
    bucket = NAMES.artifact_bucket(twin.state.account, twin.state.region)
    offset, outcomes = twin.home / "clock", {}
    with faked_clock(twin, library, offset), twin.operator() as operator:
        twin.wait_until_served(operator)
        with Answers.of(operator) as answers, Answers.of(operator, PICTURE_TOPIC) as pictures:
            before, names = twin.rss_mb(), []
            for jump in JUMPS:
                offset.write_text(f"{jump}\n")
                pictures.moments.clear()
                sent = [f"clock{jump}-{number}" for number in range(20)]
                for name in sent:
                    ask(operator, name)
                lost = answers.all_of(sent, 10)
                time.sleep(LOOK_S)
                gaps = [later - earlier for earlier, later in pairwise(pictures.moments)]
                shown = datetime.fromisoformat(answers.messages[sent[0]]["timestamp"])
                ahead_d = (shown - datetime.now(UTC)) / timedelta(days=1)
                outcomes[jump] = {
                    "answered on (by the device's clock)": f"{shown:%Y-%m-%d}",
                    "unanswered": len(lost), "longest pause of a 5 s interval": round(max(gaps, default=99.0), 1),
                }  # fmt: skip
                names += sent
                twin.kill_component()
                outcomes[jump]["served after a kill in s"] = round(twin.wait_until_served(operator), 1)
                faked = abs(ahead_d - JUMPS[jump]) < 0.1
                outcomes[jump]["holds"] = faked and not lost and max(gaps, default=99.0) < LONGEST_PAUSE_S
            after = twin.rss_mb()
        wait_for(lambda: set(captured(twin, bucket, "clock")) >= set(names), "the captures in S3", 300)
    with twin.operator() as operator:
        back_s = twin.wait_until_served(operator)
    return {
        **outcomes, "captures in S3 at the end": len(names), "served by the true clock in s": round(back_s, 1),
        "rss_mb": [before, after],
        "holds": all(each["holds"] for each in outcomes.values())
        and not twin.grew(before, after),
    }  # fmt: skip
