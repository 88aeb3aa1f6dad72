"""
The exporter's page for people, at `/`, and its figures as JSON, at `/live`.

1. Nothing is collected and nothing kept while nobody looks: `History`.
2. However many look, they keep two of the exporter's threads at most, and all who ask for the same page get the same bytes.
3. The browser is told to load nothing, to run nothing but the page's own script, and to connect to nothing but the exporter.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter import live_html
from wsgi_prom.exporter.responses import Response, create_accept_header, plain, set_body
from wsgi_prom.live import tables
from wsgi_prom.live.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.exporter.responses import Request
    from wsgi_prom.live.figures import Figures
    from wsgi_prom.live.tables import Table
    from wsgi_prom.live.view import View


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(live_html.SCRIPT)}",
        f"style-src {_hash(live_html.STYLE)}",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_COMPRESS_FROM: Final = 1000

# Requests that make a page, or wait until they can. Each keeps a thread, and scrapes need one too: while 40 clients polled the JSON
# of 10,000 routes, a scrape took 26 s without this limit and 1 s with it.
_AT_ONCE: Final = 2
# Seconds for which the last page answers requests that come while a later one is made. The page says of when it is.
_GOOD: Final = 15.0
_PAGES: Final = 16


class LivePage:
    """
    The page of the figures that *read* returns, with *links*: paths and what they are called. For any number of threads.
    """

    def __init__(self, read: Callable[[], Figures], links: Iterable[tuple[str, str]]) -> None:
        self._history = History(read)
        self._links = tuple(links)
        self._making = threading.Lock()
        self._free_threads = threading.Semaphore(_AT_ONCE)

    def respond(self, request: Request, *, json_by_default: bool, gzipped: bool) -> Response:
        """
        Return the page, or its JSON, as *request* prefers by its Accept header; 503 if the directory cannot be read, or if too
        many come at once.

        With *json_by_default* it is JSON for those who take both. *gzipped*: the client takes compressed pages.
        """
        offers = ["application/json", "text/html"] if json_by_default else ["text/html", "application/json"]
        header = request.headers.get("Accept", "") or "*/*"
        found = create_accept_header(header[:2000]).acceptable_offers(offers)
        kind = found[0][0] if found else offers[0]
        asked = _Asked(kind, gzipped)
        if kind == "text/html":
            asked = _Asked(kind, gzipped, _order(request, tables.ROUTES), _order(request, tables.WORKERS))
        try:
            made = self._made(asked)
        except (DirectoryError, OSError) as error:
            return plain(503, f"{error}\n")
        if made is None:
            # A browser tries again by itself.
            return plain(
                503, "Too many look at once. Try again in a second.\n", ("Retry-After", "1"), ("Refresh", "1")
            )
        response = Response(content_type=kind)
        if kind == "text/html":
            response.charset = "utf-8"
        response.headers.update(_HEADERS.items())
        response.vary = ("Accept", "Accept-Encoding")
        if made.gzipped:
            response.content_encoding = "gzip"
        set_body(response, request, made.body)
        return response

    def _made(self, asked: _Asked) -> _Made | None:
        """Return what is *asked* for, as of now, or of before while others keep the threads; None if there is none of before."""
        before: _Made | None = self._history.made.get(asked)
        if before and self._making.locked() and time.monotonic() - before.at < _GOOD:
            return before
        if not self._free_threads.acquire(blocking=False):
            return None
        try:
            with self._making:
                return self._make(asked)
        finally:
            self._free_threads.release()

    def _make(self, asked: _Asked) -> _Made:
        view = self._history.look()
        pages = self._history.made
        found: _Made | None = pages.get(asked)
        if found is None or found.time != view.time:
            body = self._body(view, asked)
            gzipped = asked.gzipped and len(body) >= _COMPRESS_FROM
            if gzipped:
                body = gzip.compress(body, compresslevel=1, mtime=0)
            found = _Made(view.time, time.monotonic(), body, gzipped)
            pages.pop(asked, None)
            pages[asked] = found
            if len(pages) > _PAGES:
                del pages[next(iter(pages))]
        return found

    def _body(self, view: View, asked: _Asked) -> bytes:
        if asked.kind == "application/json":
            return json.dumps(view.to_json()).encode("ascii")
        figures = self._history.figures
        order = {tables.ROUTES.name: asked.routes, tables.WORKERS.name: asked.workers}
        page = live_html.page(view, order, self._links, figures.measured if figures else ())
        return page.encode(errors="replace")


class _Asked(NamedTuple):
    """What a client asks for: the content type *kind*, whether it takes it compressed, and the order of a page's tables."""

    kind: str
    gzipped: bool
    routes: str = ""
    workers: str = ""


class _Made(NamedTuple):
    """The bytes of a view, by its *time*, made *at* a time (time.monotonic)."""

    # Not the view: of 10,000 routes it has 2.5 MB.
    time: float
    at: float
    body: bytes
    gzipped: bool


def _order(request: Request, table: Table[Any]) -> str:
    """Return the order of a *table* that the query of *request* says, empty if it is none."""
    given: str = request.GET.get(table.name, "")
    return given if any(given in {column.key, f"-{column.key}"} for column in table.columns) else ""
