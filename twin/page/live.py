"""What a live page knows and shows: it looks at the account, listens to devices, and tells browsers what changes."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from twin import TwinError
from twin.page import html, parts
from twin.page.fleet import Fleet, Source
from twin.page.messages import Messages, content_type

logger = logging.getLogger("twin.page")

CLIENTS = 16
"""Browsers that are told at once."""
SEND_S = 5.0
"""A browser that takes nothing for so long is dropped; it comes again by itself and gets all."""
END_S = 8.0
"""How long a page may take to end."""
_ALONE_S, _SETTLED_S, _PING_S = 4.0, 0.1, 15.0
_BEATS_S = 1.0  # between two tables of devices: a thousand have a hundred heartbeats a second
_BUSY = 0.4  # of the pause at rest, while something goes on
_LINES = 200


class Page:
    """What the page knows, and the browsers that are told when it changes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fleet = Fleet(source)
        self.messages = Messages(source.stage)
        self.parts: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.version = 0
        self.browsers = 0
        self._changed = asyncio.Event()
        self.looked_at = 0.0
        self._groups: list[str] = []
        self._logs_at = -10.0
        self._soon = asyncio.Event()
        self._looking = asyncio.Lock()
        self._stop = threading.Event()

    async def run(self) -> None:
        """Look and listen until cancelled."""
        listening = threading.Thread(
            target=self.messages.listen, args=(self.source.connect, self._stop), name="messages", daemon=True
        )
        listening.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_for_ever())
                tasks.create_task(self._hear_for_ever())
        finally:
            self._stop.set()
            self.fleet.close()
            # It takes its certificate away again.
            await asyncio.to_thread(listening.join, END_S - 1)

    async def _look_for_ever(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                # A file of the twin may go while it is read; what comes after is looked at.
                logger.exception("a look failed")
            wait_s = self.source.rest_s * (_BUSY if self.fleet.view.busy else 1)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), wait_s if self.browsers else _ALONE_S)
            self._soon.clear()

    async def look(self, *, within_s: float = 0.0) -> None:
        """Ask the account, unless that was done within so many seconds."""
        async with self._looking:
            if within_s and time.monotonic() - self.looked_at < within_s:
                return
            was, before = self.fleet.view.trouble, self.fleet.view
            view = await asyncio.to_thread(self.fleet.look)
            self.looked_at = time.monotonic()
            if was and not view.trouble:
                self.messages.trouble = "connecting anew"  # the account was away: so is the connection
            if self.looked_at > self._logs_at + 5.0:
                self._logs_at = self.looked_at
                await self._list_logs()
            if view != before or not self.parts:
                for name, write in parts.OF_VIEW.items():
                    self._put(name, write(view))
                self._put("devices", parts.devices(view, self.messages.heartbeats))
            self._put("trouble", parts.trouble(view, self.messages))
            self._put("glance", parts.glance(view, self.messages))

    async def _list_logs(self) -> None:
        with suppress(ClientError, BotoCoreError, TwinError):
            self._groups = await asyncio.to_thread(self.fleet.log_groups)
        files = self.source.logs()
        told = "".join(f"<option>{escape(name)}</option>" for name in [*files, *self._groups])
        self._put("logs", told or "<option value=''>none yet</option>")

    async def _hear_for_ever(self) -> None:
        seen = beats = -1
        due = 0.0
        while True:
            if seen != self.messages.version:
                seen = self.messages.version
                self._put("predictions", parts.predictions(self.messages.newest()))
            if beats != self.messages.beats and time.monotonic() >= due:
                beats, due = self.messages.beats, time.monotonic() + _BEATS_S
                self._put("devices", parts.devices(self.fleet.view, self.messages.heartbeats))
            self._put("second", str(int(time.time())))
            await asyncio.sleep(_SETTLED_S)

    def _put(self, name: str, content: str) -> None:
        """Take a part; where it has changed, the browsers are told."""
        if self.parts.get(name) != content:
            self.version += 1
            self.parts[name], self.versions[name] = content, self.version
            self._changed.set()  # who begins to wait from now on waits for the next change
            self._changed = asyncio.Event()

    async def events(self, _request: Request) -> ASGIApp:
        """What changes, as it changes."""
        if self.browsers >= CLIENTS:
            return PlainTextResponse(f"at most {CLIENTS} pages may be open: close one", 503)
        return self._tell

    async def _tell(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Tell a browser what changes. It is sent the newest of each part, so nothing piles up for a slow one."""
        self.browsers += 1
        self._soon.set()
        leaving = asyncio.create_task(_left(receive))
        try:
            head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            seen = since = 0
            while not leaving.done():
                changed = self._changed
                news = [name for name, version in self.versions.items() if version > seen]
                seen = self.version
                points = self.messages.points(since)
                since = points[-1][0] if points else since
                told: list[tuple[str, dict[str, Any]]] = [
                    ("part", {"name": name, "html": self.parts[name]}) for name in news if name != "second"
                ]
                told += [("points", {"now": int(time.time()), "points": points})] if "second" in news else []
                text = (
                    "".join(f"event: {kind}\ndata: {json.dumps(value)}\n\n" for kind, value in told)
                    or ": still here\n\n"
                )
                async with asyncio.timeout(SEND_S):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                await asyncio.sleep(_SETTLED_S)
                waiting = asyncio.create_task(changed.wait())
                await asyncio.wait((waiting, leaving), timeout=_PING_S, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        except TimeoutError:
            logger.warning("a browser took nothing for %.0f s and was dropped", SEND_S)
        finally:
            leaving.cancel()
            self.browsers -= 1

    async def show(self, _request: Request) -> Response:
        """The page with all of its parts."""
        await self.look(within_s=1.0)
        source, title = self.source, f"Edgewright: stage {self.source.stage.name}"
        shown = {name: self.parts.get(name, "") for name in _PARTS}
        forms = ""
        if source.ask:
            faults = "".join(
                f'<option value="{name}">{escape(words)}</option>' for name, words in source.faults.items()
            )
            forms = html.filled(
                "forms.html", models=parts.models(source.stage), targets=shown["targets"], faults=faults
            )
        series = json.dumps([model.folder for model in source.stage.models])
        body = html.filled("page.html", title=title, where=source.where, series=series, forms=forms, **shown)
        return HTMLResponse(html.document(title, body))

    async def picture(self, request: Request) -> Response:
        """A picture that a prediction is about."""
        content = await asyncio.to_thread(self.messages.picture, request.path_params["key"])
        kind = content_type(content)
        if not kind:
            return PlainTextResponse("no such picture any more", 404)
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    async def log(self, request: Request) -> Response:
        """The last lines of a log, as a page."""
        name = request.query_params.get("name", "")
        files = self.source.logs()
        try:
            if name in files:
                lines = await asyncio.to_thread(_tail, files[name])
            elif name in self._groups:
                lines = await asyncio.to_thread(self.fleet.log, name)
            else:
                return PlainTextResponse(f"name must be a log that the page lists, got {name[:200]!r}", 404)
        except (OSError, ClientError, BotoCoreError) as exc:
            lines = [f"the log cannot be read: {exc}"]
        body = html.filled("log.html", name=name, lines=str(_LINES), text="\n".join(lines) or "nothing yet")
        return HTMLResponse(html.document(f"Log {name}", body))

    async def destroy(self, _request: Request) -> Response:
        """What a destroy would take away, as a page."""
        try:
            async with asyncio.timeout(60):
                found = await asyncio.to_thread(self.source.left)
        except (TwinError, ClientError, BotoCoreError, TimeoutError) as exc:
            return PlainTextResponse(f"what is there cannot be listed: {exc}", 502)
        lines = [(kind, str(len(names)), ", ".join(names)) for kind, names in found.items()]
        table = html.table("By kind", ("kind", "how many", "names"), lines, (1,))
        body = html.filled("destroy.html", table=table if lines else "<p>Nothing of the stage is there.</p>")
        return HTMLResponse(html.document("What a destroy takes away", body, asked_again=False))


_PARTS = ("trouble", "glance", "devices", "predictions", "logs", *parts.OF_VIEW)


def _tail(path: Path) -> list[str]:
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, 2) - 64_000))
        return log.read().decode("utf-8", "replace").splitlines()[-_LINES:]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
