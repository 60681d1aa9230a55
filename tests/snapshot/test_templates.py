"""Each stack's template as it was last agreed on.

    UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/snapshot     accepts what is there now

What changes with the content of assets only (digests, versions) is normalised away.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis import stacks, template

FOLDER = Path(__file__).parent / "templates"
#: The twin's templates depend on the machine that runs the synth; dev's do not.
STAGE = "dev"
STACKS = (
    "EdgeServer",
    "Fleet",
    "Identity",
    "Inference",
    "Models",
    "Observability",
    "Provisioning",
    "Storage",
)


def normalised(content: dict[str, Any]) -> str:
    text = json.dumps(content, indent=1, sort_keys=True)
    text = re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)
    text = re.sub(r"(?<![\w.-])1\.\d{1,6}\.\d{1,6}(?![\w.-])", "<version>", text)
    text = re.sub(r"(Server(?:Instance|Launch|Signal|Provisioned))[0-9a-f]{8}[0-9A-F]{8}", r"\1<fingerprint>", text)
    text = re.sub(r"\(server [0-9a-f]{8}\)", "(server <fingerprint>)", text)
    lines = [_without_script(line) for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _without_script(line: str) -> str:
    """Leave the settings of the user data and drop the script behind them, which has tests of its own."""
    return re.sub(r"^( *\"'\\n)# shellcheck .*", r'\1<script>"', line)


def test_every_stack_has_a_snapshot() -> None:
    assert stacks(STAGE) == sorted(STACKS)


@pytest.mark.parametrize("stack", STACKS)
def test_template_is_the_agreed_one(stack: str) -> None:
    path = FOLDER / f"{stack}.json"
    now = normalised(template(STAGE, stack))
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(now, encoding="utf-8")

    assert path.is_file(), f"no snapshot of {stack}: run UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/snapshot"
    agreed = path.read_text(encoding="utf-8")
    assert now.splitlines() == agreed.splitlines(), "if the change is meant, run it again with UPDATE_SNAPSHOTS=1"
