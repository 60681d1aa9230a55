"""The live page's server: who is let in, what may be asked of it; on this machine only."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.places import NODE_MODULES
from twin import TwinError
from twin.page import html
from twin.page.live import END_S, SEND_S, Page, Source
from twin.ports import FOREIGN_SITES, LOOPBACK, own_hosts

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


class Actions:
    """What a page of a twin may do: ask and fault; JSON by POST.

    Args:
        page: Whose.
    """

    def __init__(self, page: Page) -> None:
        self._source, self._messages = page.source, page.messages
        self._asking = asyncio.Semaphore(_ASKS)

    async def ask(self, request: Request) -> Response:
        """Send a request to a model and wait for its answer."""
        ask = self._source.ask
        assert ask is not None  # noqa: S101 - the route is there only with it

        def do(content: Mapping[str, Any]) -> dict[str, Any]:
            fields = {
                key: content[key] for key in ("index", "features", "device") if content.get(key) not in (None, "")
            }
            if isinstance(picture := content.get("image"), str):
                try:
                    fields["image"] = base64.b64decode(picture, validate=True)
                except binascii.Error as exc:
                    raise TwinError(f"image must be base64, got {picture[:20]!r}: {exc}") from exc
            if (link := self._messages.link) is None:
                raise TwinError(f"the page must be connected to ask, it is not: {self._messages.trouble}")
            return ask(link, str(content.get("model", "")), fields)

        return await self._do(request, do)

    async def fault(self, request: Request) -> Response:
        """Make something go wrong on a device."""
        fault = self._source.fault
        assert fault is not None  # noqa: S101 - the route is there only with it
        return await self._do(
            request, lambda content: {"said": fault(str(content.get("device", "")), str(content.get("fault", "")))}
        )

    async def _do(self, request: Request, action: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Response:
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
        if self._asking.locked():
            return JSONResponse({"problem": f"at most {_ASKS} requests at a time: wait for an answer"}, 429)
        async with self._asking:
            try:
                return JSONResponse(await asyncio.to_thread(action, content))
            except (TwinError, ClientError, BotoCoreError, OSError) as exc:
                return JSONResponse({"problem": str(exc)}, 422)


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
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", [])}
                added = [
                    (name.encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.lower().encode() not in given
                ]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await PlainTextResponse(refusal, 403)(scope, receive, guarded)
            return
        path = scope["path"][1 + len(self._token) :]
        if not path:
            await Response(status_code=308, headers={"Location": f"/{self._token}/"})(scope, receive, guarded)
            return
        await self._inner({**scope, "path": path, "raw_path": path.encode()}, receive, guarded)

    def _refusal(self, scope: Scope) -> str:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").lower())
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return f"Host must be {' or '.join(sorted(self._hosts))}: use the address that the command printed"
        own = f"http://{hosts[0]}"
        if FOREIGN_SITES & set(headers.get("sec-fetch-site", [])) or any(origin != own for origin in origins):
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
    styles = html.STYLE + (_HERE / "page.css").read_text(encoding="utf-8")

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
    ]
    if source.ask and source.fault:
        actions = Actions(page)
        routes += [Route("/ask", actions.ask, methods=["POST"]), Route("/fault", actions.fault, methods=["POST"])]
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
    config = Config()
    port = taken.getsockname()[1]
    config.bind = [f"fd://{taken.detach()}"]
    config.graceful_timeout, config.shutdown_timeout = 1, 15  # browsers' events have no end of their own
    config.loglevel, config.h11_max_incomplete_size = "WARNING", 16_384
    served = application(source, port, token)
    await hypercorn_serve(served, config, shutdown_trigger=stop.wait)  # type: ignore[arg-type]
