"""The live page's server: who is let in, what may be asked of it; on this machine only.

And the page of a twin: where it looks, what it may do, and the command that serves it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import os
import secrets
import signal
import socket
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import typer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config as ServerConfig
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.names import Names
from config.places import NODE_MODULES
from config.stage import Stage
from twin import TwinError, faults, inventory
from twin import predict as asking
from twin.clock import Clock
from twin.operator import OperatorClient
from twin.page import html
from twin.page.fleet import Source
from twin.page.live import END_S, SEND_S, Page
from twin.ports import FOREIGN_SITES, LOOPBACK, own_hosts
from twin.process import CUT_OFF, device_pid
from twin.state import TwinState, load_state
from twin.status import device_roots, find_logs

BODY_BYTES = 12 << 20
_BODY_S = 10.0
_ASKS = 4
_UNSENT_BYTES = 128 << 10
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a form's Origin would be null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HERE = Path(__file__).parent
_STATIC = {
    "page.js": _HERE / "page.js",
    "idiomorph.min.js": NODE_MODULES / "idiomorph" / "dist" / "idiomorph.min.js",
    "uPlot.iife.min.js": NODE_MODULES / "uplot" / "dist" / "uPlot.iife.min.js",
    "uPlot.min.css": NODE_MODULES / "uplot" / "dist" / "uPlot.min.css",
}


def _actions(page: Page) -> list[Route]:
    """What a page of a twin may do: ask and fault, as JSON by POST; nothing for a page that only reads."""
    ask, fault, messages = page.source.ask, page.source.fault, page.messages
    if ask is None or fault is None:
        return []
    room = asyncio.Semaphore(_ASKS)

    def asked(content: Mapping[str, Any]) -> dict[str, Any]:
        if (link := messages.link) is None:
            raise TwinError(f"the page must be connected to ask, it is not: {messages.trouble}")
        return ask(link, content)

    def done(content: Mapping[str, Any]) -> dict[str, Any]:
        return {"said": fault(str(content.get("device", "")), str(content.get("fault", "")))}

    async def do(request: Request, *, action: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Response:
        if not request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse({"problem": "Content-Type must be application/json"}, 415)
        try:
            async with asyncio.timeout(_BODY_S):
                content = await request.json()
            if not isinstance(content, dict):
                raise ValueError(f"an object is expected, got {type(content).__name__}")
        except TimeoutError:
            return JSONResponse({"problem": f"a request must be sent within {_BODY_S:.0f} s"}, 408)
        except (ValueError, RecursionError) as exc:
            return JSONResponse({"problem": f"the request must be JSON: {exc}"}, 400)
        if room.locked():
            return JSONResponse({"problem": f"at most {_ASKS} requests at a time: wait for an answer"}, 429)
        async with room:
            try:
                return JSONResponse(await asyncio.to_thread(action, content))
            except (TwinError, ClientError, BotoCoreError, OSError) as exc:
                return JSONResponse({"problem": str(exc)}, 422)

    actions = {"/ask": asked, "/fault": done}
    return [Route(path, partial(do, action=action), methods=["POST"]) for path, action in actions.items()]


class Door:
    """Lets in who has the token, from a page of this server's own.

    Args:
        inner: What serves the rest of the path.
        port: Of the server.
        token: The first part of each path.
    """

    def __init__(self, inner: ASGIApp, port: int, token: str) -> None:
        self._inner, self._token, self._hosts = inner, token, own_hosts(port)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse a request."""
        if scope["type"] != "http":  # the start and the end; a WebSocket, for which there is no route, is closed
            await self._inner(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refusal := self._refusal(scope):
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)
            return
        path = scope["path"][1 + len(self._token) :]
        if not path:
            await Response(status_code=308, headers={"Location": f"/{self._token}/"})(scope, receive, guarded)
            return
        await self._inner({**scope, "path": path, "raw_path": path.encode()}, receive, guarded)

    def _refusal(self, scope: Scope) -> str:
        def said(name: str) -> list[str]:
            return [value.lower() for value in Headers(scope=scope).getlist(name)]

        hosts, origins = said("host"), said("origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return f"Host must be {' or '.join(sorted(self._hosts))}: use the address that the command printed"
        own = f"http://{hosts[0]}"
        if FOREIGN_SITES & set(said("sec-fetch-site")) or any(origin != own for origin in origins):
            return "requests of another site's page are refused"
        if scope["method"] not in ("GET", "HEAD") and not origins:
            return "what changes something must come from this page: the Origin header is missing"
        if not hmac.compare_digest(scope["path"].removeprefix("/").partition("/")[0].encode(), self._token.encode()):
            return "the address must have the token: use the one that the command printed"
        return ""


def application(source: Source, port: int, token: str) -> ASGIApp:
    """The ASGI application of a page.

    Args:
        source: Where it looks.
        port: Where it is served.
        token: That its paths begin with.
    """
    page = Page(source)
    styles = html.text_of("kept.css") + html.text_of("page.css")

    @asynccontextmanager
    async def life(_application: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(page.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait((running,), timeout=END_S)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "page.css":
            return Response(styles, media_type="text/css")
        if name not in _STATIC:
            return PlainTextResponse("no such file", 404)
        return FileResponse(_STATIC[name], headers={"Cache-Control": "no-cache"})

    routes = [
        Route("/", page.show),
        Route("/events", page.events),
        Route("/picture/{key}", page.picture),
        Route("/log", page.log),
        Route("/destroy", page.destroy),
        Route("/static/{name}", static),
        *_actions(page),
    ]
    return Door(Starlette(routes=routes, lifespan=life, max_body_size=BODY_BYTES), port, token)


def listener(port: int | None) -> socket.socket:
    """Take a port of this machine.

    Args:
        port: Which; a free one by default.

    Raises:
        OSError: Another program has it.
    """
    taken = socket.socket()
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Its connections inherit it: what a slow browser has not taken yet is no more than this, and old news.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # hypercorn waits for ever until a browser has taken the rest
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * SEND_S))
        taken.bind((LOOPBACK, port or 0))
        taken.listen()  # bound alone, it could still be another's
    except OSError:
        taken.close()
        raise
    return taken


async def serve(source: Source, taken: socket.socket, token: str) -> None:
    """Serve a page on this machine until SIGINT or SIGTERM.

    Args:
        source: Where it looks.
        taken: From `listener`.
        token: That its paths begin with.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = ServerConfig()
    port = taken.getsockname()[1]
    config.bind = [f"fd://{taken.detach()}"]
    config.graceful_timeout, config.shutdown_timeout = 1, 15  # browsers' events have no end of their own
    config.loglevel, config.h11_max_incomplete_size = "WARNING", 16_384
    served = application(source, port, token)
    await hypercorn_serve(served, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]


_BOUNDED = Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}, max_pool_connections=20)
_ANSWER_S = 15.0
_ROW = 10_000  # characters


def of_twin(home: Path, stage: Stage) -> Source:
    """Where the page of a twin looks.

    Args:
        home: The twin's state folder; a twin that ends and is started again is found again.
        stage: Whose page.
    """
    names = Names(stage.name)

    def state() -> TwinState:
        found = load_state(home)
        if found is None or not found.running:
            raise TwinError(f"the twin in {home} has ended: start it again with `python -m twin up`")
        return found

    def clients(service: str) -> Any:
        return boto3.client(service, config=_BOUNDED, **state().client_arguments())

    def connect() -> AbstractContextManager[asking.Link]:
        return OperatorClient(state())

    def ask(link: asking.Link, content: Mapping[str, Any]) -> dict[str, Any]:
        asked = question(stage, content)
        return {"note": asked.note, **asking.ask(link, names, asked, _ANSWER_S)}

    return Source(
        stage=stage,
        where=f"the twin in {os.path.relpath(home) if home.is_relative_to(Path.cwd()) else home}",
        clients=clients,
        connect=connect,
        left=lambda: {kind: found for kind, found in inventory.take(state()).items() if kind != inventory.BOOTSTRAP},
        everything=True,
        processes=lambda: _processes(home),
        clock=lambda: Clock.read(state().clock),
        logs=lambda: _logs(home),
        ask=ask,
        faults=faults.FAULTS,
        fault=lambda device, fault: faults.do(state(), device, fault, names.inference_component),
    )


def question(stage: Stage, content: Mapping[str, Any]) -> asking.Question:
    """What the page's form asks.

    Raises:
        TwinError: It cannot be asked.
    """
    listed = [each.folder for each in stage.models]
    if (model := str(content.get("model", ""))) not in listed:
        raise TwinError(f"model must be one of {', '.join(listed)}, got {model!r}")
    device, index, row = content.get("device"), content.get("index"), content.get("features")
    if isinstance(picture := content.get("image"), str):
        try:
            asked = asking.of_picture(model, base64.b64decode(picture, validate=True), "the picture")
        except ValueError as exc:  # also of what is no ASCII
            raise TwinError(f"image must be base64, got {picture[:20]!r}: {exc}") from exc
    elif type(index) is int and index >= 0:
        asked = asking.question(stage, model, index, None, None, None)
    elif isinstance(row, str) and 0 < len(row) <= _ROW:
        asked = asking.question(stage, model, None, None, row, None)
    else:
        raise TwinError(f"a picture, a row or a sample's place from 0 on must be given, got {json.dumps(index)}")
    if isinstance(device, str) and device:
        asked.request["device"] = device
    return asked


def _processes(home: Path) -> dict[str, str]:
    found = {}
    for thing, root in device_roots(home).items():
        pid = device_pid(root)
        found[thing] = "not running" if pid is None else "cut off" if (root / CUT_OFF).exists() else "running"
    return found


def _logs(home: Path) -> dict[str, Path]:
    """Log files by name, those of an edge server with its thing's name for the instance id."""
    things = {root.name: thing for thing, root in device_roots(home).items()}
    found = {}
    for name, path in find_logs(home, "").items():
        device, slash, component = name.partition("/")
        found[f"{things.get(device, device)}{slash}{component}"] = path
    return found


def run(source: Source, port: int | None, *, open_it: bool) -> None:
    """Serve a page until Ctrl-C, and say where.

    Args:
        source: Where it looks.
        port: Its port; a free one by default.
        open_it: Open it in the browser.

    Raises:
        TwinError: The port is taken.
    """
    try:
        taken = listener(port)
    except OSError as exc:
        raise TwinError(f"--port must be free, got {port}: {exc.strerror}: leave it out for any free one") from exc
    with taken:
        token = secrets.token_urlsafe(18)
        address = f"http://{LOOPBACK}:{taken.getsockname()[1]}/{token}/"
        typer.echo(f"The page of stage {source.stage.name}, {source.where}: {address}\nCtrl-C ends it.")
        if open_it:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)
        asyncio.run(serve(source, taken, token))
