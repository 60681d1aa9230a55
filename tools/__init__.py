"""Command-line tools of the repository, run as `python -m tools.<name>`."""

import sys
from pathlib import Path

from config.endings import settle_endings

# Source roots: their packages import by their own names (edge_constructs, edge_inference), here as in app.py.
for root in ("constructs", "edge_assets/inference", "edge_assets/handlers"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / root))

if sys.argv[0] == "-m":  # started as `python -m tools.…`, and not imported by another program
    settle_endings()
