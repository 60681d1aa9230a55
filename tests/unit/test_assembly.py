"""The assembly that `cdk deploy` reads, synthesised into a relative folder as the command line does it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_asset_lies_in_the_assembly_and_is_named_relative_to_it(tmp_path: Path) -> None:
    environment = {**os.environ, "CDK_OUTDIR": "cdk.out", "CDK_CONTEXT_JSON": '{"stage": "twin"}'}

    subprocess.run(
        [sys.executable, str(ROOT / "app.py")],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )

    assembly = tmp_path / "cdk.out"
    paths = [
        Path(asset["source"]["path"])
        for manifest in assembly.glob("*.assets.json")
        for asset in json.loads(manifest.read_text())["files"].values()
    ]
    assert len(paths) >= 10
    assert [path for path in paths if path.is_absolute() or not (assembly / path).exists()] == []
