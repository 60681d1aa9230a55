"""The first ring decides on a new model: a worse one goes back, a good one takes over; no request is lost."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from config.names import Names
from tests.app_copy import copy_app
from tools.offline_deploy import CdkError, OfflineDeploy
from twin import lifecycle
from twin.operator import OperatorClient
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

NAMES = Names("twin")
#: Nine and eight are named as each other: 20 % of the answers differ.
WRONG = [*map(str, range(8)), "9", "8"]
STAGE = """\
region = "us-east-1"
[[models]]
folder = "digits"
[fleet]
file = "rings.csv"
[runtime]
python = "host"
architecture = "host"
[network]
flow_logs = false
[rollout]
devices_per_minute = 1000
timeout_minutes = 5
notify_timeout_s = 10
[health]
timeout_minutes = 5
[configuration.canary.inference]
heartbeatSeconds = 1
captureBucket = ""
[promotion]
rings = ["canary"]
latency_ratio = 16
zone = 0.1
inputs = 500
minutes = 5
"""


@dataclass
class Asking:
    """Somebody who asks all the time, and what became of it."""

    operator: OperatorClient
    sent: int = 0
    answers: list[dict[str, Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with self.operator.listen(NAMES.response_topic("digits")) as messages:
            while not self.ended.is_set():
                request = {"request_id": str(self.sent), "index": self.sent % 360}
                self.operator.publish(NAMES.request_topic("digits"), json.dumps(request).encode())
                self.sent += 1
                time.sleep(0.03)
                while not messages.empty():
                    self.answers.append(json.loads(messages.get()))
            until = time.monotonic() + 30
            while len(self.answers) < self.sent and time.monotonic() < until:
                self.answers.append(json.loads(messages.get(timeout=30)))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    app = copy_app(tmp_path_factory.mktemp("promotion") / "app")
    (app / "config" / "twin.toml").write_text(STAGE)
    (app / "config" / "rings.csv").write_text(f"device,ring\n{NAMES.edge_server},canary\n")
    return app


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwinState]:
    home = tmp_path_factory.mktemp("state") / "twin"
    try:
        yield lifecycle.start(home, auth=True)
    finally:
        lifecycle.stop(home)


@pytest.fixture(scope="module")
def stage(app: Path, twin: TwinState, tmp_path_factory: pytest.TempPathFactory) -> OfflineDeploy:
    deploy = OfflineDeploy(environment=twin.environment(), out=tmp_path_factory.mktemp("out"), app=app)
    deploy.synth()
    deploy.bootstrap()
    deploy.deploy()
    deploy.wait_for_device(NAMES.edge_server, timeout_s=180)
    return deploy


def change(app: Path, **changes: Any) -> None:
    """Another model, so another version."""
    file = app / "edge_assets" / "models" / "digits" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def deployed(stage: OfflineDeploy, twin: TwinState, folder: Path) -> tuple[Asking, list[str], bool]:
    """Deploy anew while somebody asks; gives what became of both."""
    new, events = replace(stage, out=folder), list[str]()
    new.synth()
    with OperatorClient(twin) as operator:
        asking = Asking(operator)
        thread = threading.Thread(target=asking.run)
        thread.start()
        try:
            replace(new, on_line=events.append).deploy()
            ended_well = True
        except CdkError:
            ended_well = False
        finally:
            # The ring needs a moment for what the deploy has told it last.
            time.sleep(3)
            asking.ended.set()
            thread.join(90)
    return asking, events, ended_well


def versions(asking: Asking) -> list[str]:
    """The versions that answered, in their order."""
    return list(dict.fromkeys(answer["model"]["version"] for answer in asking.answers))


def approved(stage: OfflineDeploy) -> str:
    """The version that the first ring's latest deployment lets answer."""
    greengrass = stage.client("greengrassv2")
    listed = greengrass.list_deployments(historyFilter="LATEST_ONLY")["deployments"]
    (latest,) = [each["deploymentId"] for each in listed if each["targetArn"].endswith("-canary")]
    components = greengrass.get_deployment(deploymentId=latest)["components"]
    merge = json.loads(components[NAMES.runtime_component]["configurationUpdate"]["merge"])
    version: str = merge["settings"][NAMES.inference_component]["models"]["digits"]["approvedVersion"]
    return version


def assert_nothing_lost(asking: Asking) -> None:
    found = Counter(answer["request_id"] for answer in asking.answers)
    assert len(found) == asking.sent, f"{asking.sent - len(found)} of {asking.sent} requests have no answer"
    assert not [answer for answer in asking.answers if "error" in answer]


def test_a_worse_model_is_refused_and_the_ring_is_back_on_the_former_one(
    stage: OfflineDeploy, app: Path, twin: TwinState, tmp_path: Path
) -> None:
    change(app, labels=WRONG)

    asking, events, ended_well = deployed(stage, twin, tmp_path / "worse")

    assert not ended_well
    (told,) = {
        line[line.index("digits ") :] for line in events if "is not taken by ring canary" in line and "UPDATE_" in line
    }
    assert re.search(r"agreement 0\.\d+ on \d+ inputs, must be at least 0\.95: missed", told), told
    assert re.search(rf"differed most on {NAMES.edge_server}/[0-9a-f]{{12}} \([89] → [89]\)", told), told
    assert_nothing_lost(asking)
    assert versions(asking) == [approved(stage)], "the candidate answers nobody, and the former one is approved again"


def test_a_model_that_says_the_same_takes_over(
    stage: OfflineDeploy, app: Path, twin: TwinState, tmp_path: Path
) -> None:
    change(app, labels=[*map(str, range(10))], description="The same weights in another version")

    asking, events, ended_well = deployed(stage, twin, tmp_path / "same")

    assert ended_well, events[-20:]
    assert_nothing_lost(asking)
    assert len(versions(asking)) == 2, "first the one before, then the new one"
    assert versions(asking)[1] == approved(stage), "the ring's latest deployment approves what answers"
    latest = stage.client("greengrassv2").list_deployments(historyFilter="LATEST_ONLY")["deployments"]
    assert {each["deploymentStatus"] for each in latest} <= {"ACTIVE", "COMPLETED"}
