"""A copy of the app that a test may change."""

import shutil
import subprocess
from pathlib import Path

from tools.cdk_cli import ROOT


def copy_app(target: Path) -> Path:
    """What git knows of the app, as a user's clone has it after set-up."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for name in ("node_modules", "edge_assets/runtime/wheelhouse"):
        (target / name).symlink_to(ROOT / name)
    return target
