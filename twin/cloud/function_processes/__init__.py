"""Python functions start as copies of a process that has the AWS SDK loaded.

A cold start takes half a second of computing, nearly all of it for botocore and the services' models, and a deploy has
dozens. AWS has other machines for that; on a laptop it is much of a deploy.
"""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from ministack.core import lambda_runtime

from twin.cloud.function_processes import kept_workers
from twin.cloud.function_processes.forker import Forker
from twin.cloud.registry import Settings, register_background


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Start MiniStack's Python workers by the forker, all others as before."""
    forker = Forker()

    def popen(command: list[str], **options: Any) -> Any:
        # A worker's command is the interpreter and its script.
        if len(command) == 2 and command[0] == sys.executable and "cwd" in options and "env" in options:
            forked = forker.fork(command[1], cwd=options["cwd"], env=options["env"])
            if forked is not None:
                return forked
        return subprocess.Popen(command, **options)

    lambda_runtime.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    kept_workers.install()
    register_background("function processes", start=forker.start, stop=forker.stop)
