"""The wall clock of a deployed twin's core device and component jumps ahead and back."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, REQUEST, RESPONSE, DeployedTwin
from benchmarks.twin_fault_kills import ask
from benchmarks.twin_fault_s3 import captured
from benchmarks.update_paths import change_model
from benchmarks.waiting import wait_for
from tools.offline_deploy import CdkError
from tools.predictions import PICTURE_TOPIC
from twin.core_device.components.component import ATTEMPTS
from twin.operator import OperatorClient

#: As libfaketime takes it, and in days.
JUMPS = {"+1d": 1, "-2d": -2, "-3650d": -3650, "+0s": 0}
LOOK_S = 12.0
#: The picture is looked at every 5 s.
LONGEST_PAUSE_S = 7.5
LONGEST_DEPLOY_S = 400


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


def deploy_meanwhile(twin: DeployedTwin, offset: Path, operator: OperatorClient) -> dict[str, Any]:
    """The device's clock jumps a day ahead while a new model is deployed; the next one succeeds."""
    change_model(twin.app)
    twin.deploy.synth()
    before = served_version(operator)
    with ThreadPoolExecutor(1) as pool:
        deploy = pool.submit(twin.deploy.deploy)
        time.sleep(3)
        offset.write_text("+1d\n")
        try:
            deploy.result(LONGEST_DEPLOY_S)
            told = "SUCCEEDED"
        except CdkError:
            told = (twin.deploy.out / "cdk-deploy.log").read_text()
    answered = served_version(operator) == before
    offset.write_text("+0s\n")
    twin.deploy.deploy()
    twin.deploy.wait_for_device(NAMES.edge_server, timeout_s=LONGEST_DEPLOY_S)
    after = served_version(operator)
    return {
        "the deploy tells why": "RequestTimeTooSkewed" in told, "the former model answers meanwhile": answered,
        "served with the right clock": f"{before} → {after}",
        "holds": "RequestTimeTooSkewed" in told and answered and after != before,
    }  # fmt: skip


def served_version(operator: OperatorClient) -> str:
    """Version of the model that answers."""
    answer = operator.request(REQUEST, {"index": 1}, RESPONSE, timeout_s=60)
    return str(answer["model"]["version"])


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
                # One more, and nucleus lite would give it up for an hour.
                if len(outcomes) < ATTEMPTS:
                    twin.kill_component()
                    outcomes[jump]["served after a kill in s"] = round(twin.wait_until_served(operator), 1)
                faked = abs(ahead_d - JUMPS[jump]) < 0.1
                outcomes[jump]["holds"] = faked and not lost and max(gaps, default=99.0) < LONGEST_PAUSE_S
            after = twin.rss_mb()
        wait_for(lambda: set(captured(twin, bucket, "clock")) >= set(names), "the captures in S3", 300)
        outcomes["+1d during a deploy"] = deploy_meanwhile(twin, offset, operator)
    with twin.operator() as operator:
        back_s = twin.wait_until_served(operator)
    return {
        **outcomes, "captures in S3 at the end": len(names), "served by the true clock in s": round(back_s, 1),
        "rss_mb": [before, after],
        "holds": all(each["holds"] for each in outcomes.values())
        and not twin.grew(before, after),
    }  # fmt: skip
