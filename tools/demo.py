"""`make demo`: from a trained model to predictions on an edge device, on this machine, and gone again."""

import fcntl
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Self, TypeVar

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from config.endings import INTERRUPTING, INTERRUPTS, uninterrupted
from config.names import Names
from config.places import PROJECT as ROOT
from tools import demo_report
from tools.offline_deploy import CdkError, DeploymentError, OfflineDeploy
from tools.predictions import (
    CAMERA,
    PICTURE_TOPIC,
    ClassifiedPicture,
    HeldOut,
    Prediction,
    PredictionError,
    Scene,
    Site,
    accuracy,
    next_picture,
    precision_of,
)
from twin import TwinError, inventory, lifecycle
from twin.files import private_folder
from twin.operator import OperatorClient
from twin.state import TwinState, lacking, load_state

STAGE, MODEL = "twin", "digits"
STEPS = 9
OUT = ROOT / "out"
_DEVICE_LIMIT_S = 180
_STOP_LIMIT_S, _OUTCOME_LIMIT_S = 30, 600
_AGAIN = "after the twin's new start"
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
    def step(self, name: str, time_is: str = "") -> Iterator[list[str]]:
        """Time one step. What is appended to the list it gives becomes the step's closing words.

        Args:
            name: The step's.
            time_is: Said before the time, where that is not all that the work took.
        """
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
        console.print(f"{head} {' '.join(words) or 'done'} [dim]{time_is}{self.done[-1].seconds:.1f} s[/dim]")

    def detail(self, line: str) -> None:
        """Show what the running step is at; a finished stack keeps a line of its own."""
        if finished := _FINISHED_STACK.match(line):
            console.print(f"      [green]✓[/green] {finished[1]}")
        elif (status := self._status) and line.strip():  # work beside a step may end after it
            status.update(f"[bold]{self._number}/{STEPS}[/bold] {line.strip()[: console.width - 10]}")


class Beside(Generic[Result]):
    """Work that a thread does beside the steps, begun with the block; at the block's end it is stopped.

    Attributes:
        twin: The twin that it began with.

    Args:
        home: The twin's.
        work: What to do. It tells the function what it is at, and ends soon after the event is set.
    """

    def __init__(self, home: Path, work: Callable[[threading.Event, Callable[[str], None]], Result]) -> None:
        self.twin = load_state(home)
        self._work = work
        self._on_status: Callable[[str], None] = lambda _text: None
        self._begun, self._stop, self._done = False, threading.Event(), threading.Event()
        self._outcome: list[Result] = []
        self._error: BaseException | None = None

    def begin_in(self, block: ExitStack) -> Self:
        """Begin; a block ends it. An interrupt that comes while it begins finds it there."""
        block.push(self.__exit__)
        self._begun = True
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it: what it still makes would be left."""
        self._stop.set()
        if self._begun and not self._done.is_set():
            with uninterrupted():
                self._done.wait(_STOP_LIMIT_S)

    def outcome(self, on_status: Callable[[str], None]) -> Result:
        """Wait for what comes of it, and raise what it has raised.

        Args:
            on_status: Told from now on what it is at.

        Raises:
            DeploymentError: It does not end, though each of its own waits does.
        """
        self._on_status = on_status
        if not self._done.wait(_OUTCOME_LIMIT_S):
            text = f"what runs beside the steps must end within {_OUTCOME_LIMIT_S} s, it has not: try again"
            raise DeploymentError(text)
        if self._error is not None:
            raise self._error
        return self._outcome[0]

    def _run(self) -> None:
        try:
            self._outcome.append(self._work(self._stop, lambda text: self._on_status(text)))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._done.set()


def run(out: Path) -> Report:
    """Run every step; the caller cleans up whatever a failure or an interrupt leaves."""
    # What runs beside the steps ends before the caller cleans up.
    with ExitStack() as beside:
        return _run(out, beside)


def _run(out: Path, beside: ExitStack) -> Report:
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
        twin_lacks=lambda: lacking(state),
    )

    def bootstrap(stopped: threading.Event, on_status: Callable[[str], None]) -> float:
        ended = deploy.twin_has_ended
        return replace(deploy, on_line=on_status, twin_has_ended=lambda: stopped.is_set() or ended()).bootstrap()

    listening = beside.enter_context(ExitStack())

    def hear(*_: object) -> queue.SimpleQueue[bytes]:
        return listening.enter_context(photographs(state))

    # Both need the twin and no template. The device looks at its photograph as soon as it can, then every five seconds.
    bootstrapping = Beside(home, bootstrap).begin_in(beside)
    hearing = Beside(home, hear).begin_in(beside)
    with progress.step("synth") as words:
        deploy.synth()
        words.append(f"{len(list(deploy.assembly.glob('*.template.json')))} stacks, policy checks passed,")
    with progress.step("bootstrap", time_is="waited ") as words:
        bootstrap_s, when = repeated_if_the_twin_ends(
            home,
            lambda: (bootstrapping.outcome(progress.detail), "beside synth"),
            lambda: (deploy.bootstrap(), _AGAIN),
            since=bootstrapping.twin,
        )
        words.append(f"took {bootstrap_s:.1f} s {when},")
    with progress.step("deploy"):
        heard = repeated_if_the_twin_ends(home, lambda: hearing.outcome(progress.detail), hear, since=hearing.twin)
        # While the stage's device installs its components, those of another one are installed beside it.
        site = Site(state, names, out / CAMERA)
        preparing = Beside(home, site.prepare).begin_in(beside)
        deploy_s = repeated_if_the_twin_ends(home, deploy.deploy)
    deployed = time.monotonic()
    with progress.step("device") as words:

        def wait() -> str:
            return deploy.wait_for_device(names.edge_server, timeout_s=_DEVICE_LIMIT_S, on_status=progress.detail)

        deployment = repeated_if_the_twin_ends(home, wait)
        words.append(f"{names.edge_server} runs deployment {deployment[:8]},")
    with progress.step("predict") as words:
        picture = repeated_if_the_twin_ends(home, lambda: picture_of(state, heard))

        def predict() -> tuple[list[Prediction], float, list[Prediction], list[Scene]]:
            predictions: list[Prediction] = []
            first_s = 0.0
            with OperatorClient(state) as operator:
                held_out = HeldOut(operator, names)
                for prediction in held_out.pictures(MODEL):
                    first_s = first_s or time.monotonic() - deployed
                    predictions.append(prediction)
                    progress.detail(f"{len(predictions)} digits, accuracy {accuracy(predictions):.3f}")
                return predictions, first_s, held_out.flowers(), held_out.scenes()

        predictions, first_prediction_s, flowers, scenes = repeated_if_the_twin_ends(home, predict)
        precision = precision_of(scenes)
        words.append(f"{len(predictions)} held-out digits, accuracy {accuracy(predictions):.3f},")
        words.append(f"{len(flowers)} iris flowers, accuracy {accuracy(flowers):.3f},")
        words.append(f"digits found on {len(scenes)} scenes, mean average precision {precision:.3f},")
    with progress.step("cut off") as words:

        def cut_off() -> tuple[float, str, Prediction]:
            prepared_s = preparing.outcome(progress.detail)
            return prepared_s, "beside the steps before", site.read_a_digit_cut_off(progress.detail)

        def again() -> tuple[float, str, Prediction]:
            prepared_s = site.prepare(on_status=progress.detail)
            return prepared_s, _AGAIN, site.read_a_digit_cut_off(progress.detail)

        prepared_s, when, read = repeated_if_the_twin_ends(home, cut_off, again, since=preparing.twin)
        words.append(f"a client device shows its core, whose line is cut, a {read['expected']}: {read['label']};")
        words.append(f"the core was made ready {when} in {prepared_s:.1f} s,")
    beside.close()
    show(predictions, flowers, picture)
    downloads = demo_report.downloads_of(state)
    with progress.step("destroy"):
        if load_state(home) != state:  # it was killed, and started again
            repeated_if_the_twin_ends(home, site.discard_half_made)
        destroy_s = repeated_if_the_twin_ends(home, deploy.destroy)
    with progress.step("inventory") as words:

        def destroyed_again() -> dict[str, list[str]]:
            deploy.destroy()  # the state that the killed twin had saved last may be one of before
            return inventory.take(state)

        left = repeated_if_the_twin_ends(home, lambda: inventory.take(state), destroyed_again)
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


def repeated_if_the_twin_ends(
    home: Path,
    action: Callable[[], Result],
    again: Callable[[], Result] | None = None,
    *,
    since: TwinState | None = None,
) -> Result:
    """Do something with the twin; if the twin was killed meanwhile, start it from its state and do it again, once.

    Args:
        home: The twin's.
        action: What to do.
        again: What to do the second time; the same by default.
        since: The twin as it was when the action was begun, if that was before; another step may have started it again.

    Raises:
        Exception: What the action raised, if the twin still runs or the action fails again.
    """
    since = since or load_state(home)
    try:
        return action()
    except (CdkError, DeploymentError, PredictionError, TwinError, BotoCoreError, ClientError):
        if not has_ended(home) and load_state(home) == since:
            raise
        now = "it is started from its state folder, and the step repeated"
        if not has_ended(home):  # another step has started it
            now = "what it had begun beside the steps is done again"
        console.print(f"[yellow]the twin has ended; {now}[/yellow]")
        lifecycle.start(home)
        return (again or action)()


@contextmanager
def photographs(state: TwinState) -> Iterator[queue.SimpleQueue[bytes]]:
    """Hear what devices say of the photograph that they look at by themselves."""
    with OperatorClient(state) as operator, operator.listen(PICTURE_TOPIC) as heard:
        yield heard


def picture_of(state: TwinState, heard: queue.SimpleQueue[bytes]) -> ClassifiedPicture:
    """What a device has said of its photograph, or says next; a client of before may have lost its right to hear."""
    if not heard.empty():
        return next_picture(heard)
    with photographs(state) as from_now_on:
        return next_picture(heard, from_now_on)


def forget(home: Path) -> None:
    """End the demo's twin and throw its state away; the logs stay."""
    lifecycle.purge(home, keep="log")


def show(digits: list[Prediction], flowers: list[Prediction], picture: ClassifiedPicture) -> None:
    """Print one answer for each digit and the mistakes, a flower of each species, what is said of the photograph."""
    firsts = {p["expected"]: p for p in reversed(digits)}
    wrong = [p for p in digits if p["label"] != p["expected"]]
    _print_table("digit", [firsts[digit] for digit in sorted(firsts)] + wrong[:3])
    _print_table("iris", {flower["expected"]: flower for flower in flowers}.values())
    results = ", ".join(f"{each['Label']} {each['Score']:.3f}" for each in picture.results) or "none"
    console.print(f"photograph: {picture.description}: {results}")


def _print_table(what: str, predictions: Iterable[Prediction]) -> None:
    table = Table(what, "predicted", "probability", "latency", box=None, pad_edge=False)
    for p in predictions:
        style = None if p["label"] == p["expected"] else "red"
        table.add_row(p["expected"], p["label"], f"{p['probability']:.3f}", f"{p['latency_ms']:.2f} ms", style=style)
    console.print(table)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run: templates, logs, the twin's state.")] = OUT / "demo",
    report: Annotated[Path, typer.Option(help="Where the figures go; the page lies beside.")] = OUT / "demo.json",
) -> None:
    """Deploy the twin stage offline, predict held-out digits on the core device, destroy, show what is left."""
    with alone(out.resolve()):
        sys.exit(_demonstrate(out, report))


def _interrupt(*_: object) -> None:
    """End the steps, once: whoever presses twice must not end the clean-up before it begins."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _demonstrate(out: Path, report: Path) -> int:
    started = time.monotonic()
    # A terminal's hang-up or a job runner's stop is an interrupt like Ctrl-C: everything is taken down.
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it: the demo goes on without its terminal
            signal.signal(number, _interrupt)
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
    except (CdkError, DeploymentError, PredictionError, TwinError, BotoCoreError, ClientError, OSError) as error:
        console.print(str(error), style="red", markup=False)
        console.print(f"logs: {out}")
    finally:
        for number in INTERRUPTING:
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
