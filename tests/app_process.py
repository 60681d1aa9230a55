"""Runs `python app.py` again and again in one process: loading the CDK takes longer than most of the synths.

Each line of standard input is an order as JSON: `{"program": …, "context": {…}, "outdir": …}`. The program may change
what it finds in `app` and other modules of this repository before the app starts; that is put back afterwards. Each
order is answered by a line with the exit code; what the app says goes to standard error.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def own_modules() -> list[ModuleType]:
    """The modules of this repository that are loaded."""
    found = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return [
        each for each in found if Path(str(each.__file__)).is_relative_to(ROOT) and ".venv" not in str(each.__file__)
    ]


def run(program: str, context: dict[str, str], outdir: str) -> int:
    """Do what a process of its own would do, and return its exit code."""
    app: Any = sys.modules["app"]
    new_app = app.new_app
    # A process gets them by CDK_CONTEXT_JSON and CDK_OUTDIR, which CDK's own process reads once.
    app.new_app = lambda given: new_app({**given, **context}, outdir=Path(outdir))
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - of a test
        app.main()
    except SystemExit as exc:
        if exc.code and not isinstance(exc.code, int):
            print(exc.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        return exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    except Exception:  # noqa: BLE001 - whatever ends the app
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve orders until standard input ends."""
    import app  # noqa: F401 - loaded once, for all

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        kept = {module.__name__: dict(vars(module)) for module in own_modules()}
        code = run(**json.loads(line))
        for name, content in kept.items():
            here = vars(sys.modules[name])
            here.clear()
            here.update(content)
        sys.stderr.flush()
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main()
