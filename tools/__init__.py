"""Command-line tools of the repository, run as `python -m tools.<name>`."""

import sys
from pathlib import Path

# `constructs/` is a source root: its packages import by their own names (edge_constructs), here as in app.py.
sys.path.append(str(Path(__file__).resolve().parents[1] / "constructs"))
