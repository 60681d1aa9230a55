"""Command-line tools of the repository, run as `python -m tools.<name>`."""

import sys
from pathlib import Path
from types import TracebackType

# Source roots: their packages import by their own names (edge_constructs, edge_inference), here as in app.py.
for root in ("constructs", "edge_assets/inference", "edge_assets/handlers"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / root))


def _say_without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C is no fault of the program, a package that set-up brings none either."""
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    elif isinstance(error, ModuleNotFoundError):
        fix = "make setup (make setup-dev for the checks' packages), then source .venv/bin/activate"
        print(f"{sys.executable} must have {error.name}, it has not: {fix}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[0] == "-m":  # started as `python -m tools.…`, and not imported by another program
    sys.excepthook = _say_without_traceback
