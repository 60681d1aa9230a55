"""The process that function processes are copies of. Run: `python -m twin.cloud.function_template FD`.

It speaks over one socket: a message is a JSON object (script, cwd, env) with three descriptors, which become the copy's
standard input, output and error; the answer is the copy's process descriptor. It ends when the socket does.
"""

from __future__ import annotations

import array
import functools
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from twin.clock import CLOCK, Clock

MESSAGE_BYTES = 1 << 20
STANDARD_STREAMS = 3
_SHORTEST_S = 0.2
_SERVICES = ("s3", "iot", "greengrassv2", "sagemaker", "kms", "ssm", "stepfunctions")
_MODULES = ("boto3", "boto3.s3.transfer", "botocore.auth", "botocore.handlers", "botocore.httpsession", "s3transfer")


def main() -> None:
    """Load what functions load, then make copies until nobody asks any more."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes ended copies away
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _load()
    _keep_time()
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(channel, MESSAGE_BYTES, STANDARD_STREAMS)
        if not message:
            return
        order = json.loads(message)
        pid = os.fork()
        if pid == 0:
            channel.close()
            _become(order, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [process]))]
        channel.sendmsg([str(pid).encode()], rights)
        os.close(process)


def _keep_time() -> None:
    """Let functions see the twin's time: they compute the ends of waits with it. Signatures go by `datetime`.

    A pause stays so long that a function which looks again and again leaves this machine time for its work.
    """
    if Clock() != CLOCK:
        sleep = time.sleep
        time.time = CLOCK.time
        time.sleep = lambda seconds: sleep(max(min(float(seconds), _SHORTEST_S), CLOCK.real(float(seconds))))


def _load() -> None:
    for name in _MODULES:
        importlib.import_module(name)
    from boto3.session import Session
    from botocore.loaders import JSONFileLoader

    parse = JSONFileLoader.load_file

    @functools.cache
    def parsed(path: str) -> Any:
        return parse(JSONFileLoader(), path)

    # A copy has each file parsed already, whatever session it makes; it may change what it gets, which is its own.
    JSONFileLoader.load_file = lambda _loader, path: parsed(path)
    session = Session()
    for service in _SERVICES:
        session.client(service, region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106


def _become(order: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Run a function's script as a process of its own would."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        sys.argv = [order["script"]]
        runpy.run_path(order["script"], run_name="__main__")
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
    except BaseException:  # noqa: BLE001 - it is printed, as an interpreter's last act
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
