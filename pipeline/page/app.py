"""What a browser may ask: the page, its parts, the list of series, and a stream of events. Nothing can be changed from here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.page.fold import Fold
from pipeline.page.messages import LONGEST_NAME

PARTS = Path(__file__).parent / "static"
LOOK = Path(__file__).parents[1] / "data" / "report.css"  # one look for the page and for a backtest's report
MOST_LISTED = 100  # names that an eye goes through; the rest is for search
MOST_STREAMS = 64  # open at once: each costs a look at a series a second
WORKERS = (
    2  # threads that look things up: they take turns anyway, and each more keeps megabytes of its own once it has listed 100,000 series
)
TICK_SECONDS = 1.0
HISTORY_TICKS = 3
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
encode = msgspec.json.encode


class Known(Protocol):
    """What keeps a fold up to date; see `reader.Reader`."""

    @property
    def fold(self) -> Fold: ...
    @property
    def lock(self) -> Lock: ...
    @property
    def link(self) -> tuple[str, float, str]: ...  # state, since (s), why
    @property
    def behind(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    def look_back(self, name: str) -> None: ...


class Strict:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        await self._app(scope, receive, told)


def make_app(known: Known, *, hosts: Sequence[str], ending: Callable[[], bool]) -> Starlette:
    """The page over what is known. `hosts`: names it answers to ("*": any); `ending`: whether streams should end."""
    streams = 0
    workers = anyio.CapacityLimiter(WORKERS)

    async def page(_: Request) -> Response:
        return FileResponse(PARTS / "page.html", media_type="text/html; charset=utf-8")

    async def look(_: Request) -> Response:
        return FileResponse(LOOK, media_type="text/css; charset=utf-8")

    async def series(request: Request) -> Response:
        asked = request.query_params
        order = asked.get("order", "worst")
        if order not in {"worst", "band", "name"}:
            return PlainTextResponse("order: allowed: worst, band, name", 400)
        query = asked.get("q", "")[:LONGEST_NAME]
        return Response(await anyio.to_thread.run_sync(listed, known, query, order, limiter=workers), media_type="application/json")

    async def events(request: Request) -> Response:
        nonlocal streams
        name, lead = request.query_params.get("series"), request.query_params.get("lead", "1")
        if not lead.isdecimal() or len(lead) > 4:  # noqa: PLR2004  four digits: 1,000
            return PlainTextResponse("lead: allowed: a whole number", 400)
        if streams >= MOST_STREAMS:
            return PlainTextResponse(f"{MOST_STREAMS} pages are open already: close one", 503)

        async def stream() -> AsyncIterator[bytes]:
            nonlocal streams
            streams += 1
            try:
                seen: dict[str, Any] = {}
                tick = 0
                while not ending():
                    for part in await anyio.to_thread.run_sync(news, known, name, int(lead), seen, tick, limiter=workers):
                        yield part
                    tick += 1
                    await asyncio.sleep(TICK_SECONDS)
            finally:
                streams -= 1

        headers = {"X-Accel-Buffering": "no"}  # a proxy that waits for a full buffer would hold events for minutes
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/report.css", look),
            Mount("/static", StaticFiles(directory=PARTS)),
            Route("/api/series", series),
            Route("/events", events),
        ],
        middleware=[
            Middleware(Strict),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),  # no stranger's name for this address
            Middleware(GZipMiddleware, minimum_size=2_000),
        ],
    )


def listed(known: Known, query: str, order: str) -> bytes:
    with known.lock:
        found = known.fold.listed(query, order, MOST_LISTED)
    return encode(found)


def news(known: Known, name: str | None, lead: int, seen: dict[str, Any], tick: int) -> list[bytes]:
    """The events of a tick: `now` always, the rest where it has changed. Each says all there is, so that nothing is missed for good."""
    fold = known.fold
    back = False
    with known.lock:
        out = [event("now", {**fold.now(), **standing(known)})]
        changed = dict(fold.changed)
        if name is not None:
            back = fold.pick(name)
            if changed["series"] != seen.get("series"):
                out.append(event("series", fold.shown(name, lead)))
        if changed["decisions"] != seen.get("decisions"):
            out.append(event("decisions", list(fold.decisions)))
        if tick % HISTORY_TICKS == 0:
            out.append(event("history", fold.history()))
    seen.update(changed)
    if back and name is not None:
        known.look_back(name)
    return out


def standing(known: Known) -> Mapping[str, Any]:
    state, since, why = known.link
    return {
        "link": {"state": state, "since": round(since * 1_000), "why": why},
        "behind": known.behind,
        "skipped": known.skipped,
        "clock": round(time.time() * 1_000),
        "version": version("tidecast"),
    }


def event(kind: str, data: object) -> bytes:
    r"""One of a stream's events; JSON has no line ends, so one line holds it.

    >>> event("now", {"a": "\n"})
    b'event: now\ndata: {"a":"\\n"}\n\n'
    """
    return b"event: " + kind.encode() + b"\ndata: " + encode(data) + b"\n\n"
