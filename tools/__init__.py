"""Command-line tools of the repository, run as `python -m tools.<name>`."""

import sys
from pathlib import Path

# Source roots: their packages import by their own names (edge_constructs, edge_inference), here as in app.py.
for root in ("constructs", "edge_assets/inference", "edge_assets/handlers"):
    sys.path.append(str(Path(__file__).resolve().parents[1] / root))
