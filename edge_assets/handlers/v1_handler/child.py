"""The function's own process: imports it, gives it one event after the other. python -m v1_handler.child DESCRIPTOR."""

import base64
import importlib
import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from v1_handler import publishing
from v1_handler.channel import Channel, ChannelClosedError
from v1_handler.context import LambdaContext

Function = Callable[[Any, LambdaContext], Any]


def main() -> None:
    """Serve until the component closes the channel."""
    channel = Channel(int(sys.argv[1]))
    publishing.current = publishing.Publishing(channel.send)
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, events, publishing.current), daemon=True).start()
    # A function's own logging goes where its print goes, as it did.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    try:
        function = _import(os.environ["_HANDLER"])
    except BaseException as exc:  # noqa: BLE001 - sys.exit() of a function is a reason, too
        traceback.print_exc()
        channel.send({"failed": f"{type(exc).__name__}: {exc}"})
        sys.stdout.flush()
        os._exit(1)
    channel.send({"ready": True})
    while True:
        message = events.get()
        channel.send({"result": message["event"], "error": _invoke(function, message)})


def _receive(channel: Channel, events: "queue.SimpleQueue[dict[str, Any]]", out: publishing.Publishing) -> None:
    try:
        while True:
            message = channel.receive()
            if "event" in message:
                events.put(message)
            else:
                out.acknowledge(message["published"], message["error"])
    except ChannelClosedError:
        # The component is gone or wants this one gone; threads of the function must not keep it.
        sys.stdout.flush()
        os._exit(0)


def _import(handler: str) -> Function:
    module, _, name = handler.rpartition(".")
    function: Function = getattr(importlib.import_module(module), name)
    if not callable(function):
        raise TypeError(f"{handler} must be a function, got {type(function).__name__}")
    return function


def _invoke(function: Function, message: dict[str, Any]) -> str | None:
    """Give the function an event; None, or why it did not work."""
    payload = base64.b64decode(message["payload"])
    event: Any = payload
    if message["encoding"] == "json":
        try:
            event = json.loads(payload)
        except (ValueError, RecursionError) as exc:
            return f"the message must be JSON: {exc}"
    try:
        function(event, LambdaContext(message["context"]))
    except Exception as exc:  # noqa: BLE001 - it belongs to the function, whose next event is served
        traceback.print_exc()
        return f"{type(exc).__name__}: {exc}"
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return None


if __name__ == "__main__":
    main()
