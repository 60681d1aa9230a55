"""`make demo`: from a trained model to predictions on an edge device, on this machine, and gone again."""

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from config.names import Names
from tools import demo_report
from tools.cdk_cli import ROOT, CdkError
from tools.demo_site import CAMERA, read_a_digit_cut_off
from tools.offline_deploy import DeploymentError, OfflineDeploy
from tools.predictions import (
    PICTURE_TOPIC,
    ClassifiedPicture,
    Prediction,
    PredictionError,
    Scene,
    accuracy,
    find_digits,
    next_picture,
    precision_of,
    predict_flowers,
    predict_held_out,
)
from twin import inventory, lifecycle
from twin.errors import TwinError
from twin.files import private_folder
from twin.operator import OperatorClient
from twin.state import load_state

STAGE, MODEL = "twin", "digits"
STEPS = 9
OUT = ROOT / "out"
_DEVICE_LIMIT_S = 180
_FINISHED_STACK = re.compile(r"\s*✅\s+\S+ \((?P<name>[^)]+)\)")
Result = TypeVar("Result")
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Step:
    """One step: its name, how long it took in seconds, and its closing words."""

    name: str
    seconds: float
    words: str


@dataclass
class Report:
    """What the demo measured; written as JSON with exactly these fields."""

    predictions: list[Prediction]
    accuracy: float
    bootstrap_s: float
    deploy_s: float
    first_prediction_s: float
    destroy_s: float
    leftovers: list[str]
    iris: list[Prediction]
    iris_accuracy: float
    scenes: list[Scene]
    mean_average_precision: float
    image_classification: ClassifiedPicture
    steps: list[Step]
    downloads: list[demo_report.Download]
    bill: dict[str, Any]


class Progress:
    """Numbered steps, each with a line that moves while it runs and its time when it is done."""

    def __init__(self) -> None:
        self._number = 0
        self._status: Any = None
        self.done: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time one step. What is appended to the list it gives becomes the step's closing words."""
        self._number += 1
        head = f"[bold]{self._number}/{STEPS} {name:<12}[/bold]"
        words: list[str] = []
        started = time.monotonic()
        if not console.is_terminal:
            console.print(f"{head} …")
        with console.status(f"{head} …") as self._status:
            yield words
        self._status = None
        self.done.append(Step(name, round(time.monotonic() - started, 2), " ".join(words).rstrip(",")))
        console.print(f"{head} {' '.join(words) or 'done'} [dim]{self.done[-1].seconds:.1f} s[/dim]")

    def detail(self, line: str) -> None:
        """Show what the running step is at; a finished stack keeps a line of its own."""
        if finished := _FINISHED_STACK.match(line):
            console.print(f"      [green]✓[/green] {finished[1]}")
        elif self._status and line.strip():
            self._status.update(f"[bold]{self._number}/{STEPS}[/bold] {line.strip()[: console.width - 10]}")


def run(out: Path) -> Report:
    """Run every step; the caller cleans up whatever a failure or an interrupt leaves."""
    progress, names = Progress(), Names(STAGE)
    home = out / "twin"
    with progress.step("twin") as words:
        forget(home)  # what a killed demo may have left
        state = lifecycle.start(home)
        words.append(f"up on 127.0.0.1:{state.gateway_port}, state in {os.path.relpath(home)}")
    deploy = OfflineDeploy(
        environment=state.environment(),
        out=out,
        stage=STAGE,
        on_line=progress.detail,
        twin_has_ended=lambda: has_ended(home),
    )
    with progress.step("synth") as words:
        deploy.synth()
        words.append(f"{len(list(deploy.assembly.glob('*.template.json')))} stacks, policy checks passed,")
    with progress.step("bootstrap"):
        bootstrap_s = repeated_if_the_twin_ends(home, deploy.bootstrap)
    with progress.step("deploy"):
        deploy_s = repeated_if_the_twin_ends(home, deploy.deploy)
    deployed = time.monotonic()
    with progress.step("device") as words:

        def wait() -> str:
            return deploy.wait_for_device(names.edge_server, timeout_s=_DEVICE_LIMIT_S, on_status=progress.detail)

        deployment = repeated_if_the_twin_ends(home, wait)
        words.append(f"{names.edge_server} runs deployment {deployment[:8]},")
    with progress.step("predict") as words:

        def predict() -> tuple[list[Prediction], float, list[Prediction], list[Scene], ClassifiedPicture]:
            predictions: list[Prediction] = []
            first_s = 0.0
            with OperatorClient(state) as operator, operator.listen(PICTURE_TOPIC) as photographs:
                for prediction in predict_held_out(operator, names, MODEL):
                    first_s = first_s or time.monotonic() - deployed
                    predictions.append(prediction)
                    progress.detail(f"{len(predictions)} digits, accuracy {accuracy(predictions):.3f}")
                flowers, scenes = predict_flowers(operator, names), find_digits(operator, names)
                return predictions, first_s, flowers, scenes, next_picture(photographs)

        predictions, first_prediction_s, flowers, scenes, picture = repeated_if_the_twin_ends(home, predict)
        precision = precision_of(scenes)
        words.append(f"{len(predictions)} held-out digits, accuracy {accuracy(predictions):.3f},")
        words.append(f"{len(flowers)} iris flowers, accuracy {accuracy(flowers):.3f},")
        words.append(f"digits found on {len(scenes)} scenes, mean average precision {precision:.3f},")
    with progress.step("cut off") as words:
        read = repeated_if_the_twin_ends(
            home, lambda: read_a_digit_cut_off(state, names, out / CAMERA, progress.detail)
        )
        words.append(f"a client device shows its core, whose line is cut, a {read['expected']}: {read['label']},")
    show(predictions)
    show_others(flowers, picture)
    downloads = demo_report.downloads_of(state)
    with progress.step("destroy"):
        destroy_s = repeated_if_the_twin_ends(home, deploy.destroy)
    with progress.step("inventory") as words:
        left = repeated_if_the_twin_ends(home, lambda: inventory.take(state))
        leftovers = [f"{kind}: {name}" for kind, found in left.items() if kind != "bootstrap" for name in found]
        words.append(f"left: {', '.join(leftovers) or 'nothing'} (and the CDK bootstrap stack),")
    return Report(
        predictions, accuracy(predictions), round(bootstrap_s, 2), round(deploy_s, 2), round(first_prediction_s, 2),
        round(destroy_s, 2), leftovers, flowers, accuracy(flowers), scenes, precision, picture, progress.done,
        downloads, demo_report.bill_as_dict(deploy.assembly),
    )  # fmt: skip


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Let one demo at a time work in a folder; the lock goes with the process that holds it."""
    try:
        private_folder(out)
        lock = (out / "demo.lock").open("w")
    except OSError as error:
        raise typer.BadParameter(f"the folder of the run must be writable, got {out}: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"one demo at a time can run in {out}: wait until the other one has ended, or give --out"
            raise typer.BadParameter(text) from None
        yield


def has_ended(home: Path) -> bool:
    """Whether the twin was started and does not run any more."""
    state = load_state(home)
    return state is not None and not state.running


def repeated_if_the_twin_ends(home: Path, action: Callable[[], Result]) -> Result:
    """Do something with the twin; if the twin was killed meanwhile, start it from its state and do it again, once.

    Raises:
        Exception: What the action raised, if the twin still runs or the action fails again.
    """
    try:
        return action()
    except (CdkError, DeploymentError, PredictionError, TwinError, BotoCoreError, ClientError):
        if not has_ended(home):
            raise
        console.print("[yellow]the twin has ended; it is started from its state folder, and the step repeated[/yellow]")
        lifecycle.start(home)
        return action()


def forget(home: Path) -> None:
    """End the demo's twin and throw its state away; the logs stay."""
    lifecycle.purge(home, keep="log")


def show(predictions: list[Prediction]) -> None:
    """Print one answer for each digit, and the mistakes."""
    table = Table("digit", "predicted", "probability", "latency", box=None, pad_edge=False)
    firsts = {p["expected"]: p for p in reversed(predictions)}
    wrong = [p for p in predictions if p["label"] != p["expected"]]
    for p in [firsts[digit] for digit in sorted(firsts)] + wrong[:3]:
        style = None if p["label"] == p["expected"] else "red"
        table.add_row(p["expected"], p["label"], f"{p['probability']:.3f}", f"{p['latency_ms']:.2f} ms", style=style)
    console.print(table)


def show_others(flowers: list[Prediction], picture: ClassifiedPicture) -> None:
    """Print one flower of each species, and what the device says of its photograph."""
    table = Table("iris", "predicted", "probability", "latency", box=None, pad_edge=False)
    for flower in {flower["expected"]: flower for flower in flowers}.values():
        probability, latency = f"{flower['probability']:.3f}", f"{flower['latency_ms']:.2f} ms"
        table.add_row(flower["expected"], flower["label"], probability, latency)
    console.print(table)
    results = ", ".join(f"{each['Label']} {each['Score']:.3f}" for each in picture.results) or "none"
    console.print(f"photograph: {picture.description}: {results}")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run: templates, logs, the twin's state.")] = OUT / "demo",
    report: Annotated[Path, typer.Option(help="Where the figures go; the page lies beside.")] = OUT / "demo.json",
) -> None:
    """Deploy the twin stage offline, predict held-out digits on the core device, destroy, show what is left."""
    with alone(out.resolve()):
        sys.exit(_demonstrate(out, report))


def _demonstrate(out: Path, report: Path) -> int:
    started = time.monotonic()
    # A terminal's hang-up or a job runner's stop is an interrupt like Ctrl-C: everything is taken down.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it: the demo goes on without its terminal
            signal.signal(number, signal.default_int_handler)
    code, page = 1, report.with_suffix(".html")
    try:
        result = run(out.resolve())
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(asdict(result), indent=1) + "\n")
        page.write_text(demo_report.as_page(asdict(result)), encoding="utf-8")
        code = 1 if result.leftovers else 0
    except KeyboardInterrupt:
        console.print("[yellow]interrupted: taking everything down[/yellow]")
        code = 130
    except (CdkError, DeploymentError, PredictionError, TwinError, BotoCoreError, ClientError) as error:
        console.print(str(error), style="red", markup=False)
        console.print(f"logs: {out}")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the clean-up is bounded and must end
        try:
            forget(out.resolve() / "twin")
        except TwinError as error:
            console.print(str(error), style="red", markup=False)
            code = 1
    console.print(
        f"{'done' if code == 0 else 'ended'} in {time.monotonic() - started:.1f} s"
        + (f", figures in {report}; look at {page}" if code == 0 else "")
    )
    return code


if __name__ == "__main__":
    typer.run(main)
