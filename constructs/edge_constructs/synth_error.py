"""A failed synth in a few lines: what, where in this repository, and how to see more."""

import re
import traceback
from pathlib import Path

#: JavaScript's stack frames, which follow the message of an error that comes from the CDK.
_FRAMES = re.compile(r"\n\s+at .*", re.DOTALL)


def describe(error: Exception, root: Path) -> str:
    """Write an error without its traceback.

    Args:
        error: What ended the synth.
        root: Folder of the app: the last line of it that was running is the place that is shown.

    Returns:
        Message, place and the way to the traceback, a line each.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(Path(frame.filename), root)]
    place = f"{Path(own[-1].filename).resolve().relative_to(root.resolve())}:{own[-1].lineno}" if own else "unknown"
    message = _FRAMES.sub("", str(error)).strip() or type(error).__name__
    # jsii puts the class of the JavaScript error before its text.
    message = re.sub(r"^(?:@?[\w./-]+\.)?(?:\w*Error): ", "", message)
    kind = f"{type(error).__name__}: " if isinstance(error, (KeyError, AttributeError, TypeError)) else ""
    return f"synth: {kind}{message}\n  at:  {place}\n  fix: correct it there; -c debug=true shows the whole traceback"


def _is_own(file: Path, root: Path) -> bool:
    try:
        inside = file.resolve().relative_to(root.resolve())
    except ValueError:
        return False
    # The virtual environment may lie in the same folder.
    return not inside.parts[0].startswith(".") and inside.parts[0] != "node_modules"
