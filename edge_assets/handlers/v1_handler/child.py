"""The function's own process: imports it, gives it one event after the other, each with the context that V1 gave.

python -m v1_handler.child DESCRIPTOR [FOLDER...]    the folders are where the function's imports look first
"""

import base64
import importlib
import inspect
import io
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from v1_handler import channel as to_component
from v1_handler.channel import Channel, ChannelClosedError, Publishing


def function_arn(name: str, version: str) -> str:
    """A name as Lambda would give it; the account is unknown on a device."""
    return f"arn:aws:lambda:{_region()}:000000000000:function:{name}:{version}"


def log_group(name: str) -> str:
    """Where V1 would have written the log of a function."""
    return f"/aws/greengrass/Lambda/{_region()}/{name}"


def _region() -> str:
    return os.environ.get("AWS_REGION") or "local"


class Client:
    """The calling app, which Greengrass never knew: every field is None."""

    installation_id: str | None = None
    app_title: str | None = None
    app_version_name: str | None = None
    app_version_code: str | None = None
    app_package_name: str | None = None


class ClientContext:
    """Where an event comes from.

    Args:
        custom: `subject` is the topic.
    """

    def __init__(self, custom: Mapping[str, str]) -> None:
        self.custom = dict(custom)
        self.env: dict[str, str] = {}
        self.client = Client()


class Identity:
    """The calling user, which Greengrass never knew."""

    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


class LambdaContext:
    """What a function may ask about itself and its event.

    Args:
        about: From the component: `name`, `version`, `memoryMb`, `requestId`, `subject`, `timeoutSeconds`.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        name, version = str(about["name"]), str(about["version"])
        self.function_name = name
        self.function_version = version
        self.invoked_function_arn = function_arn(name, version)
        self.memory_limit_in_mb = int(about["memoryMb"])
        self.aws_request_id = str(about["requestId"])
        self.log_group_name = log_group(name)
        self.log_stream_name = os.environ.get("AWS_IOT_THING_NAME", "")
        self.client_context = ClientContext({"subject": str(about["subject"])})
        self.identity = Identity()
        self._deadline = time.monotonic() + float(about["timeoutSeconds"])

    def get_remaining_time_in_millis(self) -> int:
        """Time until the event's time-out, in milliseconds, at least 0."""
        return max(int((self._deadline - time.monotonic()) * 1000), 0)

    def log(self, message: object) -> None:
        """Write to the component's log."""
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


Function = Callable[[Any, LambdaContext], Any]
SAID_CHARACTERS = 2000


def main() -> None:
    """Serve until the component closes the channel."""
    channel = Channel(int(sys.argv[1]))
    out = to_component.current = Publishing(channel.send)
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, events, out), daemon=True).start()
    prepare_output()
    _look_in(sys.argv[2:])
    process = os.getpid()
    try:
        function = _import(os.environ["_HANDLER"])
    except BaseException as exc:  # noqa: BLE001 - sys.exit() of a function is a reason, too
        traceback.print_exc()
        channel.send({"failed": _said(exc)})
        _flush()
        os._exit(1)
    channel.send({"ready": True})
    while True:
        message = events.get()
        error = _invoke(function, message)
        if os.getpid() != process:
            # The function forked, and this is the copy: the event's result is its parent's to tell.
            os._exit(0)
        channel.send({"result": message["event"], "error": error})


def _receive(channel: Channel, events: "queue.SimpleQueue[dict[str, Any]]", out: Publishing) -> None:
    try:
        while True:
            message = channel.receive()
            if "event" in message:
                events.put(message)
            else:
                out.acknowledge(message["published"], message["error"])
    except ChannelClosedError:
        # The component is gone or wants this one gone; threads of the function must not keep it.
        _flush()
        os._exit(0)


def _look_in(folders: list[str]) -> None:
    # Only now that Python and this package are up: a function may have modules that are called like Python's own. So
    # the Python programs that it starts are told where its packages and the shim are, and not where its modules are.
    sys.path[:0] = folders
    packages = [folder for folder in folders if folder != os.environ["LAMBDA_TASK_ROOT"]]
    os.environ["PYTHONPATH"] = os.pathsep.join([os.environ["PYTHONPATH"], *packages])


def _import(handler: str) -> Function:
    module, _, name = handler.rpartition(".")
    function: Function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{handler} must be a function, got {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{handler} must be a plain function, got an async one: call asyncio.run(...) in a plain one")
    return function


def _invoke(function: Function, message: dict[str, Any]) -> str | None:
    """Give the function an event; None, or why it did not work."""
    payload = base64.b64decode(message["payload"])
    event: Any = payload
    if message["encoding"] == "json":
        try:
            event = json.loads(payload)
        except (ValueError, RecursionError) as exc:
            return f"the message must be JSON: {exc}; a function of bytes is declared with encoding binary"
    try:
        function(event, LambdaContext(message["context"]))
    except Exception as exc:  # noqa: BLE001 - it belongs to the function, whose next event is served
        traceback.print_exc()
        return _said(exc)
    finally:
        _flush()
    return None


def _said(exc: BaseException) -> str:
    try:
        # One that repeats its data would not fit into a message.
        return f"{type(exc).__name__}: {exc}"[:SAID_CHARACTERS]
    except Exception:  # noqa: BLE001 - the text of a foreign exception is foreign code
        return f"{type(exc).__name__}, which cannot be shown"


def _flush() -> None:
    """What the function has written goes to the log, unless it closed or replaced its output."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def prepare_output() -> None:
    """Let text of any kind be printed, and logging go where print goes, unless the function sets it up itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    default = logging.StreamHandler(sys.stdout)
    default.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.root.addHandler(default)
    logging.root.setLevel(logging.INFO)
    original = logging.basicConfig

    def basic_config(**options: Any) -> None:
        # It does nothing where there is a handler already: with ours, a function's own level and format would be lost.
        if logging.root.handlers == [default]:
            logging.root.removeHandler(default)
        original(**options)

    logging.basicConfig = basic_config


if __name__ == "__main__":
    main()
