"""Packages that only some commands need: what `make setup` alone does not bring."""

import sys
from importlib.util import find_spec

from tools.set_up import ENVIRONMENTS


def require(program: str, environment: str, *modules: str) -> None:
    """End the program with exit code 2 where a package is missing, before it has done anything.

    Args:
        program: How the command is called, such as `python -m tools.train_iris`.
        environment: The one of `tools.set_up` that has the packages; `make setup-<environment>` makes it.
        modules: The packages, as they are imported.

    Raises:
        SystemExit: One is not installed; standard error says which, where, and what to run.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        folder = ENVIRONMENTS[environment].folder
        call = "" if folder == ENVIRONMENTS["run"].folder else program.replace("python", f"{folder}/bin/python", 1)
        print(
            f"{program}: {', '.join(modules)} must be installed, {', '.join(missing)} not found in {sys.prefix}: "
            f"run make setup-{environment}{call and f', then {call}'}",
            file=sys.stderr,
        )
        raise SystemExit(2)
