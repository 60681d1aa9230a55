"""What `python app.py` makes of each stage, once a session by whichever worker asks first, and of changed apps."""

import atexit
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from config.loader import stage_names
from config.places import PROJECT as ROOT
from tests.stand_in import NEEDED

#: The folder that the workers of a session share; tests/conftest.py makes and removes it.
SHARED = "EDGEWRIGHT_TESTS_SHARED"
LIMIT_S = 300


@dataclass(frozen=True)
class Synthesis:
    """A synth that has ended: its assembly, exit code and what it said."""

    assembly: Path
    returncode: int
    stderr: str

    def keep(self, folder: Path) -> None:
        """Write down how it ended, for the other workers."""
        (folder / "ended.json").write_text(json.dumps([self.returncode, self.stderr]), encoding="utf-8")

    @classmethod
    def kept(cls, folder: Path) -> "Synthesis":
        """Read what a worker has written down."""
        return cls(folder / "cdk.out", *json.loads((folder / "ended.json").read_text(encoding="utf-8")))


@contextmanager
def _alone(name: str) -> Iterator[Path]:
    """Give the folder that the workers share, to one of them at a time."""
    shared = Path(os.environ[SHARED])
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared


@cache
def checked(stage: str) -> Synthesis:
    """Synthesise all stages with all checks; CloudFormation's schemas are loaded once for them."""
    with _alone("stages") as shared:
        for name in () if (shared / stage).exists() else stage_names():
            (shared / name).mkdir()
            run_app(shared / name, stage=name, validate="true").keep(shared / name)
        return Synthesis.kept(shared / stage)


@cache
def bare() -> Synthesis:
    """Synthesise without a stage, from another folder, as a user without credentials, settings and network."""
    with _alone("bare") as shared:
        folder = shared / "bare"
        if folder.exists():
            return Synthesis.kept(folder)
        home = folder / "home"
        home.mkdir(parents=True)
        environment = {
            **NEEDED,
            "PATH": "/nonexistent",
            "HOME": str(home),
            # A call to AWS would have to go through it, and nobody listens there.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "app.py")],
            cwd=folder,
            env={**environment, "CDK_OUTDIR": "cdk.out"},  # a relative one, as the CDK's command line gives it
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        made = Synthesis(folder / "cdk.out", done.returncode, done.stderr)
        made.keep(folder)
        return made


class _App:
    """A process that has loaded the app, and runs it for one program after the other (tests/app_process.py)."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "app_process.py")],
            cwd=ROOT,
            # pytest's own variables make CDK report in another way than outside of it.
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        atexit.register(self.end)

    def run(self, order: Mapping[str, Any]) -> tuple[int, str]:
        """Give an order; the exit code, and what was said since the one before."""
        assert self._process.stdin
        assert self._process.stdout
        before = self._said.seek(0, os.SEEK_END)
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
        answer = self._process.stdout.readline() if ready else ""
        self._said.seek(before)
        said = self._said.read()
        assert answer, f"no end within {LIMIT_S} s, or no answer: {said}"
        return int(answer), said

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


_app = cache(_App)


def run_app(folder: Path, program: str = "", **context: str) -> Synthesis:
    """Run the app as with CDK_CONTEXT_JSON and CDK_OUTDIR, in a process that does so for many tests.

    Args:
        folder: Gets the assembly, as `cdk.out`.
        program: Python that changes something of the app before it starts; it is put back afterwards.
        context: As of `cdk synth -c`.
    """
    order = {"program": program, "context": context, "outdir": str(folder / "cdk.out")}
    return Synthesis(folder / "cdk.out", *_app().run(order))


def assembly(stage: str) -> Path:
    """Folder of a stage's assembly, which has passed all checks; not to be changed."""
    made = checked(stage)
    assert made.returncode == 0, made.stderr
    return made.assembly


@cache
def template(stage: str, stack: str) -> dict[str, Any]:
    """Read the template of one stack, such as `Storage`."""
    content: dict[str, Any] = json.loads((assembly(stage) / f"{stack}.template.json").read_text(encoding="utf-8"))
    return content


def stacks(stage: str) -> list[str]:
    """Construct ids of a stage's stacks, sorted."""
    return sorted(path.name.removesuffix(".template.json") for path in assembly(stage).glob("*.template.json"))


def resources(stage: str, stack: str, kind: str) -> list[dict[str, Any]]:
    """The resources of one type in a stack."""
    return [found for found in template(stage, stack)["Resources"].values() if found["Type"] == kind]
