"""Work in a process of its own, so that no model can take the cloud down: an order as JSON in, the answer as JSON out.

Both ends of it: `ask` is the cloud's, `serve` the process'. Neither needs MiniStack.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.places import IMPORTS

Document = dict[str, Any]


class OrderError(Exception):
    """An order that cannot be carried out, through no fault of the process; the text is the answer's `failure`."""


class WorkerError(Exception):
    """A process that ended without an answer.

    Args:
        code: Its exit code.
        log: What it wrote to standard error.
    """

    def __init__(self, code: int, log: str) -> None:
        super().__init__(f"ended with {code}: {log[-400:]}")
        self.code, self.log = code, log


async def ask(module: str, order: Document) -> Document:
    """Run a module with an order; cancelling ends the process.

    Args:
        module: It calls `serve`.
        order: JSON.

    Returns:
        The answer; `{"failure": …}` for an `OrderError`.

    Raises:
        WorkerError: If the process ends otherwise.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=IMPORTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        answer, log = await process.communicate(json.dumps(order).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise WorkerError(process.returncode, log.decode(errors="replace"))
    result: Document = json.loads(answer)
    return result


def serve(work: Callable[[Document, Path], Document]) -> None:
    """Carry out the one order of this process; what is no `OrderError` is a traceback and exit code 1.

    Args:
        work: Takes the order and an empty folder for temporary files.
    """
    # Native code may print to stdout; the answer must be alone there.
    answer_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="order-") as folder:
        try:
            answer = work(order, Path(folder))
        except OrderError as exc:
            answer = {"failure": str(exc)}
    with answer_stream:
        json.dump(answer, answer_stream)
