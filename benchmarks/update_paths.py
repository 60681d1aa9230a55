"""What each kind of change costs a device: bytes that it downloads, seconds until it serves, and requests, on a twin.

A change is brought while 20 requests a second arrive; the device has nucleus lite's dialect unless told otherwise.

Rerun with `.venv/bin/python benchmarks/update_paths.py [--dialect classic]`; a copy of the app is deployed, changed and
deployed again.
"""

import contextlib
import json
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.deployed_twin import LIMIT_S, NAMES, REQUEST, RESPONSE, ROOT, DeployedTwin
from tools.offline_deploy import CdkError
from twin.operator import OperatorClient

FETCHED = re.compile(r"component (\S+) \S+, artifact \S+/(\S+): fetched (\d+) bytes")
KB = 1000
RATE = 20.0
PATIENCE_S = 15.0


@dataclass(frozen=True)
class Cost:
    """What a change cost.

    Attributes:
        fetched: Bytes by `component/file`.
        deploy_s: `cdk deploy`.
        device_s: From its end until the device reports success.
        served_s: From there until a request is answered.
        sent: Requests meanwhile, and until 15 s after.
        lost: Those without an answer.
        never: Those without one when they were asked again, too.
    """

    fetched: dict[str, int]
    deploy_s: float
    device_s: float
    served_s: float
    sent: int
    lost: int
    never: int


class Requests:
    """Requests at a steady pace, from a thread; use it as a context manager.

    Args:
        operator: A connected client.
    """

    def __init__(self, operator: OperatorClient) -> None:
        self._operator = operator
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._heard = contextlib.ExitStack()
        self.sent: list[str] = []
        self.lost: list[str] = []
        self.never: list[str] = []

    def __enter__(self) -> Self:
        self._answers = self._heard.enter_context(self._operator.listen(RESPONSE))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.lost = self._without_answer(self.sent)
        for name in self.lost:
            self._ask(name)
        self.never = self._without_answer(self.lost)
        self._heard.close()

    def _without_answer(self, names: Sequence[str]) -> list[str]:
        missing = dict.fromkeys(names)
        deadline = time.monotonic() + PATIENCE_S
        while missing and (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                missing.pop(json.loads(self._answers.get(timeout=left_s)).get("request_id"), None)
        return list(missing)

    def _ask(self, name: str) -> None:
        self._operator.publish(REQUEST, json.dumps({"request_id": name, "index": 1}).encode())

    def _send(self) -> None:
        while not self._ended.wait(1 / RATE):
            name = f"r{len(self.sent)}-{time.monotonic_ns()}"
            self._ask(name)
            self.sent.append(name)


#: Changes that may not cost a request.
WITHOUT_LOSS = ("nothing", "model", "configuration")


class Fleet(DeployedTwin):
    """A copy of the app whose changes are deployed and measured."""

    def bring(self, *, fails: bool = False, first: bool = False) -> Cost:
        """Bring the app as it is now to the device; `fails` where the device is to go back to what it had."""
        self.deploy.synth()
        if first:
            return self._bring(fails=fails)
        with self.operator() as operator, Requests(operator) as requests:
            cost = self._bring(fails=fails)
        return replace(cost, sent=len(requests.sent), lost=len(requests.lost), never=len(requests.never))

    def speak(self, dialect: str) -> None:
        """Let the device keep another nucleus' limits from now on; it is started anew."""
        (file,) = self.home.glob("instances/*/config.yaml")
        file.write_text(re.sub(r"^( *dialect: ).*$", rf"\g<1>{dialect}", file.read_text(), flags=re.MULTILINE))
        self.kill_device()
        with self.operator() as operator:
            self.wait_until_served(operator)
        if f"dialect {dialect}" not in self.log():
            raise ValueError(f"the device must keep {dialect}'s limits, its log does not say so")

    def _bring(self, *, fails: bool) -> Cost:
        read = self._log_size()
        started = time.monotonic()
        try:
            self.deploy.deploy()
        except CdkError:
            # The stack waits for the device's health, and says what the device says.
            if not fails or "failed on 1 of 1 devices" not in (self.deploy.out / "cdk-deploy.log").read_text():
                raise
        deploy_s = time.monotonic() - started
        started = time.monotonic()
        if not fails:
            self.deploy.wait_for_device(NAMES.edge_server, timeout_s=LIMIT_S)
        reported = time.monotonic()
        with self.operator() as operator:
            served_s = self.wait_until_served(operator)
        found = FETCHED.findall(self._log(read))
        fetched = {f"{component}/{file}": int(size) for component, file, size in found}
        return Cost(fetched, deploy_s, reported - started, served_s, 0, 0, 0)

    def _log_files(self) -> list[Path]:
        return list(self.home.glob("instances/*/**/log/core_device.log"))

    def _log_size(self) -> int:
        return sum(file.stat().st_size for file in self._log_files())

    def _log(self, start: int) -> str:
        (file,) = self._log_files()
        return file.read_bytes()[start:].decode()


def change_code(app: Path) -> None:
    """A changed line of the inference component."""
    with (app / "edge_assets" / "inference" / "edge_inference" / "messages.py").open("a") as stream:
        stream.write("CHANGED = True\n")  # a comment would not travel


def break_code(app: Path) -> None:
    """Code that ends at once: the device tries it, then goes back to what it had. Synth does not import it."""
    with (app / "edge_assets" / "inference" / "edge_inference" / "service.py").open("a") as stream:
        stream.write('raise SystemExit("broken on purpose")\n')


def restore_code(app: Path) -> None:
    """The code as it was at first, which is what a revert brings."""
    for name in ("messages.py", "service.py"):
        place = Path("edge_assets", "inference", "edge_inference", name)
        shutil.copy(ROOT / place, app / place)


def change_model(app: Path) -> None:
    """A model trained anew."""
    folder = app / "edge_assets" / "models" / "digits"
    command = [sys.executable, "-m", "tools.train_digits", "--hidden", "128", "--output", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)


def change_configuration(app: Path) -> None:
    """Another interval in the stage's file."""
    file = app / "config" / "twin.toml"
    text = file.read_text()
    changed = text.replace("InferenceInterval = 5", "InferenceInterval = 7")
    if changed == text:
        raise ValueError(f"{file} must hold 'InferenceInterval = 5' for this benchmark to change it")
    file.write_text(changed)


def model_bytes(app: Path) -> int:
    """The digit model, what its compiler made of it (about as much), and the samples that travel with it."""
    folder = app / "edge_assets" / "models" / "digits"
    return sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx", "samples.npz"))


def main(
    dialect: str = typer.Option("lite", help="Whose limits the device keeps: lite or classic."),
    keep: bool = typer.Option(False, help="Keep the folder of the run, with its logs."),
) -> None:
    """Print a Markdown table, and each artifact that was fetched; end with 1 if a change cost more than it may."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    changes: dict[str, tuple[Callable[[Path], None], Callable[[Path], int | None]]] = {
        "nothing": (lambda _app: None, lambda _app: 0),
        "code": (change_code, lambda _app: 100 * KB),
        "broken code, brought back by the rollback": (break_code, lambda _app: 100 * KB),
        "code, back to what it was": (restore_code, lambda _app: 100 * KB),
        "model": (change_model, lambda app: model_bytes(app) + 5 * KB),
        "configuration": (change_configuration, lambda _app: 0),
    }
    rows: list[tuple[str, int | None, Cost]] = []
    over = False
    try:
        with Fleet(folder) as fleet:
            fleet.bootstrap()
            rows.append(("all, the first time", None, fleet.bring(first=True)))
            if dialect != "lite":
                fleet.speak(dialect)
            for name, (change, limit) in changes.items():
                print(f"{name} …", file=sys.stderr)
                change(fleet.app)
                rows.append((name, limit(fleet.app), fleet.bring(fails=change is break_code)))
    finally:
        if keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(
        "| change | kB to the device | at most | cdk deploy s | device s | answered s | requests | lost | "
        "asked again, lost | fetched |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, most, cost in rows:
        total = sum(cost.fetched.values())
        over |= (most is not None and total > most) or (cost.lost > 0 and name in WITHOUT_LOSS) or cost.never > 0
        parts = ", ".join(f"{what.split('.', 2)[-1]} {size / KB:.1f}" for what, size in sorted(cost.fetched.items()))
        shown = "-" if most is None else f"{most / KB:.1f}"
        times = f"{cost.deploy_s:.1f} | {cost.device_s:.1f} | {cost.served_s:.2f}"
        counts = f"{cost.sent} | {cost.lost} | {cost.never}"
        print(f"| {name} | {total / KB:.1f} | {shown} | {times} | {counts} | {parts or 'nothing'} |")
    raise typer.Exit(int(over))


if __name__ == "__main__":
    typer.run(main)
