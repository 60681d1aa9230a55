"""How large a function's artifact is, what was cut from it, and what makes the most of it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.bundle_trim import Cut

#: All artifacts of a component together, as Greengrass limits them.
LIMIT_BYTES = 2_000_000_000
#: What a Lambda function could have unpacked: beyond it, something is probably along that is not needed.
WARNING_BYTES = 250_000_000
LARGEST = 10
#: Raised with every change of what is taken away: what was bundled before is bundled anew.
FORM = 2


class BundleTooLargeError(Exception):
    """An artifact that Greengrass would refuse; the text names its largest parts."""


@dataclass(frozen=True)
class Report:
    """What became of a function's packages.

    Args:
        before_bytes: Unpacked, before any cut.
        after_bytes: Unpacked, as shipped.
        cuts: What was taken away.
        largest: Part and its bytes, the largest first, ten at most.
        notes: What a person should know.
        form: Of the bundler's rules.
    """

    before_bytes: int
    after_bytes: int
    cuts: tuple[Cut, ...]
    largest: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()
    form: int = FORM

    def text(self) -> str:
        """The report as a table."""
        rows: list[tuple[str, int | None, int]] = [("before", None, self.before_bytes)]
        rows += [(f"- {cut.rule}", cut.files, -cut.size_bytes) for cut in self.cuts]
        rows += [("after", None, self.after_bytes)]
        lines = [f"  {what:<34}{'' if files is None else files:>8}{size / 1e6:>10.1f} MB" for what, files, size in rows]
        lines += [f"  the {len(self.largest)} largest parts:"]
        lines += [f"    {part:<40}{size / 1e6:>10.1f} MB" for part, size in self.largest]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), indent=2)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def largest_parts(folder: Path) -> tuple[tuple[str, int], ...]:
    """Find what makes the most of a folder.

    Args:
        folder: The packages' folder.

    Returns:
        Part (two levels deep: a package's subpackage or library) and its bytes, the largest first, ten at most.
    """
    parts: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            parts["/".join(path.relative_to(folder).parts[:2])] += path.stat().st_size
    return tuple(sorted(parts.items(), key=lambda item: (-item[1], item[0]))[:LARGEST])


def check_size(
    what: str, size_bytes: int, largest: Sequence[tuple[str, int]], limit_bytes: int = LIMIT_BYTES
) -> str | None:
    """Compare a size with the limits.

    Args:
        what: The function.
        size_bytes: Of its artifacts, unpacked.
        largest: See `largest_parts`.
        limit_bytes: What Greengrass takes.

    Returns:
        A warning; None when there is nothing to warn of.

    Raises:
        BundleTooLargeError: It is over the limit.
    """
    named = ", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in largest)
    if size_bytes > limit_bytes:
        raise BundleTooLargeError(
            f"{what}: a component may have {limit_bytes / 1e6:.0f} MB, got {size_bytes / 1e6:.1f} MB; "
            f"its largest parts: {named}"
        )
    if size_bytes > WARNING_BYTES:
        return (
            f"{size_bytes / 1e6:.1f} MB is more than the {WARNING_BYTES / 1e6:.0f} MB that a Lambda function could have"
        )
    return None
