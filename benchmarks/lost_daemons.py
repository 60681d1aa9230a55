"""How long a device in nucleus lite's dialect is deaf after it has lost a daemon, with 20 requests a second arriving.

Rerun with `.venv/bin/python benchmarks/lost_daemons.py`; a copy of the app is deployed to a twin of its own.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.deployed_twin import NAMES
from benchmarks.update_paths import Fleet, Requests
from twin import faults

LIMIT_S = 60.0


def main() -> None:
    """Print a Markdown table; end with 1 if a device was deaf for more than 60 s."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    rows = []
    try:
        with Fleet(folder) as fleet:
            fleet.bootstrap()
            fleet.bring(first=True)
            for daemon in ("mqtt", "ipc", "mqtt", "ipc"):
                with fleet.operator() as operator, Requests(operator) as requests:
                    time.sleep(1)
                    process = fleet.component.pid
                    faults.do(fleet.state, NAMES.edge_server, daemon, NAMES.inference_component)
                    time.sleep(0.5)
                    deaf_s = fleet.wait_until_served(operator) + 0.5
                rows.append((daemon, deaf_s, len(requests.sent), len(requests.lost), fleet.component.pid != process))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| lost | deaf s, at most 60 | requests | lost | started anew |")
    print("|---|---|---|---|---|")
    for daemon, deaf_s, sent, lost, anew in rows:
        print(f"| {daemon} | {deaf_s:.1f} | {sent} | {lost} | {'yes' if anew else 'no'} |")
    raise typer.Exit(int(any(deaf_s > LIMIT_S for _, deaf_s, *_ in rows)))


if __name__ == "__main__":
    typer.run(main)
