"""The assembly that `cdk deploy` reads, synthesised into a relative folder as the command line does it."""

import json
from pathlib import Path

from tests import synthesis


def test_every_asset_lies_in_the_assembly_and_is_named_relative_to_it() -> None:
    assembly = synthesis.bare().assembly

    paths = [
        Path(asset["source"]["path"])
        for manifest in assembly.glob("*.assets.json")
        for asset in json.loads(manifest.read_text())["files"].values()
    ]
    assert len(paths) >= 10
    assert [path for path in paths if path.is_absolute() or not (assembly / path).exists()] == []
