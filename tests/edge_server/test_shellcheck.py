import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_constructs.edge_assets import user_data_script
from tests.edge_server.system import SCRIPTS

SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    result = subprocess.run(
        [str(SHELLCHECK), *map(str, SCRIPTS)], capture_output=True, text=True, timeout=60, check=False
    )

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("nucleus", ["classic", "lite", "docker"])
def test_fits_into_user_data(nucleus: str) -> None:
    # EC2 takes 16 KB before base64; the exports in front of the script get 3 KB of it.
    assert len(user_data_script(nucleus).encode()) < 13 * 1024
