"""What a device in nucleus lite's dialect does after it has lost a daemon, while files and requests come.

Rerun with `.venv/bin/python benchmarks/lost_daemons.py`; a copy of the app is deployed to a twin of its own.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES
from benchmarks.twin_fault_kills import ANSWER_LIMIT_S, ask, coming_in
from benchmarks.twin_fault_s3 import captured
from benchmarks.twin_faults import configure
from benchmarks.update_paths import Fleet
from benchmarks.waiting import wait_for
from twin import faults
from twin.operator import OperatorClient

LIMIT_S = 60.0
RETRY_S = 1.0


@dataclass(frozen=True)
class Loss:
    """What the loss of a daemon cost.

    Attributes:
        daemon: Which one.
        seconds: Until the component did again what it needs that daemon for.
        files: Watched files meanwhile.
        results_lost: Those without a result.
        requests: Requests meanwhile.
        unanswered: Those without an answer.
        never: Those without one when they were asked again, too.
        anew: Whether the process is another one.
    """

    daemon: str
    seconds: float
    files: int
    results_lost: int
    requests: int
    unanswered: int
    never: int
    anew: bool

    @property
    def holds(self) -> bool:
        """Whether the device came back in time, and nothing is lost for good."""
        return self.seconds <= LIMIT_S and not self.results_lost and not self.never


class Losses:
    """Brings the losses about, one after the other.

    Args:
        fleet: Deployed.
        watched: Its watched folder.
    """

    def __init__(self, fleet: Fleet, watched: Path) -> None:
        self._fleet, self._watched = fleet, watched
        self._bucket = NAMES.artifact_bucket(fleet.state.account, fleet.state.region)

    def of(self, daemon: str) -> Loss:
        """Lose a daemon while ten files and five requests come in a second."""
        recovered = {"config": self._takes_settings, "token": self._captures}.get(daemon, self._answers_requests)
        with self._fleet.operator() as operator, Answers.of(operator) as answers:
            process = self._fleet.component
            with coming_in(operator, self._watched) as work:
                time.sleep(1)
                with recovered(operator, answers) as wait:
                    faults.do(self._fleet.state, NAMES.edge_server, daemon, NAMES.inference_component)
                    time.sleep(0.5)
                    seconds = wait() + 0.5
            lost = answers.all_of(work.files, ANSWER_LIMIT_S)
            unanswered = answers.all_of(list(work.requests), 15)
            for name in unanswered:
                ask(operator, name)
            never = answers.all_of(unanswered, ANSWER_LIMIT_S)
        anew = self._fleet.component.create_time() != process.create_time() or self._fleet.component.pid != process.pid
        counts = (len(work.files), len(lost), len(work.requests), len(unanswered), len(never))
        return Loss(daemon, seconds, *counts, anew)

    @contextmanager
    def _answers_requests(self, operator: OperatorClient, _answers: Answers) -> Iterator[Callable[[], float]]:
        yield lambda: self._fleet.wait_until_served(operator)

    @contextmanager
    def _takes_settings(self, operator: OperatorClient, answers: Answers) -> Iterator[Callable[[], float]]:
        """Whether a setting that is deployed after the loss is followed."""
        file = self._fleet.app / "config" / "twin.toml"
        text = file.read_text()
        file.write_text(text.replace("captureShare = 1", "captureShare = 1, topK = 1"))
        self._fleet.deploy.synth()

        def wait() -> float:
            self._fleet.deploy.deploy()
            began = time.monotonic()
            while not self._one_label(operator, answers, f"labels-{time.monotonic_ns()}"):
                if time.monotonic() - began > 3 * LIMIT_S:
                    raise TimeoutError("the device must follow a setting that is deployed, it does not")
            return time.monotonic() - began

        yield wait

    @staticmethod
    def _one_label(operator: OperatorClient, answers: Answers, name: str) -> bool:
        ask(operator, name)
        return not answers.all_of([name], RETRY_S) and len(answers.messages[name]["top_k"]) == 1

    @contextmanager
    def _captures(self, operator: OperatorClient, _answers: Answers) -> Iterator[Callable[[], float]]:
        """Whether the component uploads with credentials that it was given after the loss."""
        started = self._component_log().count("credentials are at port")

        def wait() -> float:
            began = time.monotonic()
            wait_for(
                lambda: self._component_log().count("credentials are at port") > started,
                "the new port of the credentials",
                3 * LIMIT_S,
            )
            self._fleet.wait_until_served(operator)
            prefix = f"token-{time.monotonic_ns()}"

            def captures() -> bool:
                # Captures are in nobody's way: on a busy machine a single one may be left out.
                ask(operator, f"{prefix}-{time.monotonic_ns()}")
                time.sleep(1)
                return bool(captured(self._fleet, self._bucket, prefix))

            wait_for(captures, "a capture in S3", 3 * LIMIT_S)
            return time.monotonic() - began

        yield wait

    def _component_log(self) -> str:
        return self._fleet.log(NAMES.inference_component)


def main(
    daemons: str = typer.Option("mqtt,ipc,config,pubsub,token,ipc", help="Which ones, in which order."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
) -> None:
    """Print a Markdown table; end with 1 if a device was away for more than 60 s, or lost something for good."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    watched = folder / "watched"
    watched.mkdir()
    rows: list[Loss] = []
    try:
        fleet = Fleet(folder)
        configure(fleet.app, watched)
        with fleet:
            fleet.bootstrap()
            fleet.bring(first=True)
            losses = Losses(fleet, watched)
            for daemon in daemons.split(","):
                print(f"{daemon} …", file=sys.stderr, flush=True)
                rows.append(losses.of(daemon))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json.dumps([row.__dict__ for row in rows], indent=1))
    else:
        print(
            "| lost | away s, at most 60 | files | results lost | requests | unanswered | asked again | started anew |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for row in rows:
            counts = f"{row.files} | {row.results_lost} | {row.requests} | {row.unanswered} | {row.never} unanswered"
            print(f"| {row.daemon} | {row.seconds:.1f} | {counts} | {'yes' if row.anew else 'no'} |")
    raise typer.Exit(int(not all(row.holds for row in rows)))


if __name__ == "__main__":
    typer.run(main)
