import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.edge_server.system import SCRIPT

SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    result = subprocess.run([str(SHELLCHECK), str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)

    assert result.returncode == 0, result.stdout


def test_fits_into_user_data() -> None:
    # EC2 takes 16 KB before base64; the exports in front of the script get 4 KB of it.
    assert len(SCRIPT.read_bytes()) < 12 * 1024
