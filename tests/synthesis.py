"""What `python app.py` makes of each stage: synthesised once a session, by whichever worker asks first."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.stand_in import NEEDED
from tools.cdk_cli import ROOT

#: The folder that the workers of a session share; tests/conftest.py makes and removes it.
SHARED = "EDGEWRIGHT_TESTS_SHARED"
LIMIT_S = 300


@dataclass(frozen=True)
class Synthesis:
    """A synth that has ended: its assembly, exit code and what it said."""

    assembly: Path
    returncode: int
    stderr: str


@cache
def checked(stage: str) -> Synthesis:
    """Synthesise a stage with all checks, CloudFormation's schemas included."""
    environment = {**os.environ}
    # pytest's own variables make CDK report in another way than outside of it.
    for name in ("PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    context = json.dumps({"stage": stage, "validate": "true"})
    return _once(f"stage-{stage}", {**environment, "CDK_CONTEXT_JSON": context})


@cache
def bare() -> Synthesis:
    """Synthesise without a stage, from another folder, as a user without credentials, settings and network."""
    home = Path(os.environ[SHARED]) / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **NEEDED,
        "PATH": "/nonexistent",
        "HOME": str(home),
        # A call to AWS would have to go through it, and nobody listens there.
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return _once("bare", environment)


def _once(name: str, environment: Mapping[str, str]) -> Synthesis:
    """Run the app, or take what another worker has made; the folder of the assembly is given as a relative one."""
    folder = Path(os.environ[SHARED]) / name
    folder.mkdir(exist_ok=True)
    ended = folder / "ended.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ended.exists():
            done = subprocess.run(
                [sys.executable, str(ROOT / "app.py")],
                cwd=folder,
                env={**environment, "CDK_OUTDIR": "cdk.out"},
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            ended.write_text(json.dumps([done.returncode, done.stderr]), encoding="utf-8")
    return Synthesis(folder / "cdk.out", *json.loads(ended.read_text(encoding="utf-8")))


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
