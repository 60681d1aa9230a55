"""Runs the compiler in a process of its own: a model that crashes it fails one resource, not the function."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_handlers.deadline import Deadline

PROGRAM = Path(__file__).with_name("optimise.py")


class OptimiserError(RuntimeError):
    """ONNX Runtime refuses the model."""


def run_optimiser(source: Path, target: Path, shapes: dict[str, Any], site: Path, deadline: Deadline) -> None:
    """Optimise a model.

    Args:
        source: The ONNX model.
        target: Where the optimised one goes.
        shapes: Name of each input to its shape.
        site: Folder with numpy and ONNX Runtime.
        deadline: The process is ended then.

    Raises:
        OptimiserError: The model cannot be loaded or run with these shapes, or crashed the compiler.
        DeadlineError: The time is over.
    """
    environment = {**os.environ, "PYTHONPATH": str(site), "ORT_DISABLE_TELEMETRY": "1"}
    try:
        result = subprocess.run(
            [sys.executable, str(PROGRAM), str(source), str(target)],
            input=json.dumps(shapes),
            capture_output=True,
            text=True,
            env=environment,
            timeout=max(deadline.remaining(), 1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        deadline.check(f"optimise {source.name}")
        raise
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["it said nothing"]
        raise OptimiserError(f"ONNX Runtime cannot compile {source.name} (exit code {result.returncode}): {said[-1]}")
