"""A copy of the app that a test may change."""

import shutil
import subprocess
from pathlib import Path

from config.places import PROJECT as ROOT


def git(*arguments: str) -> str:
    """What git says of this repository, also where another user owns it, as in a container with a mounted clone."""
    command = ["git", "-c", f"safe.directory={ROOT}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


def copy_app(target: Path) -> Path:
    """What git knows of the app, as a user's clone has it after set-up."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for name in ("node_modules", "edge_assets/runtime/wheelhouse"):
        (target / name).symlink_to(ROOT / name)
    return target
