"""`python -m twin`."""

import sys

try:
    from twin.cli import main
except ModuleNotFoundError as exc:
    sys.exit(f"{sys.executable} must have {exc.name}, it has not: make setup, then source .venv/bin/activate")

main()
