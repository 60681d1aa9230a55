"""What AWS IoT Greengrass nucleus lite takes and what it does with it, written down once.

The edge rules (what is refused at synth) and the twin's core device in its dialect `lite` (what is refused or copied on
a device) read these facts; the table in docs/twin.md is printed from them. Versions are compared by each of the two in
its own way: a device that is independent of what it checks is worth more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RELEASE = "2.6.0"
OBSERVED = "observed"


@dataclass(frozen=True)
class Fact:
    """Something that holds for nucleus lite 2.6.0 (commit 283b286).

    Args:
        says: What it takes or does; `{value}` stands for the value.
        source: A file below `modules/` of aws-greengrass-lite (`gg/` is of its component SDK) or its `docs/`, or
            `observed`: seen on that release.
        twin: What one sees on the twin's core device in the dialect `lite`.
        shown_by: A component of `tests/core_device/test_dialect.py` by its name there, or a test as `<file>::<name>`
            below `tests/`; empty where only the rule at synth is tested.
        rule: The edge rule that says so at synth, without its prefix; empty where it cannot be seen in a template.
        value: A number or pattern that code reads.
    """

    says: str
    source: str
    twin: str
    shown_by: str = ""
    rule: str = ""
    value: Any = None

    @property
    def text(self) -> str:
        """What it says, with the value."""
        return self.says.replace("{value}", f"{self.value:,}" if isinstance(self.value, int) else str(self.value))
