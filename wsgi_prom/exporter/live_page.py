"""
The exporter's page for people, at `/`, and its figures as JSON, at `/live`.

1. Nothing is collected and nothing kept while nobody looks: `History`.
2. The browser is told to load nothing, to run nothing but the page's own script, and to connect to nothing but the exporter.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError
from wsgi_prom.exporter import live_html
from wsgi_prom.exporter.responses import Response, create_accept_header, plain
from wsgi_prom.live.history import History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wsgi_prom.exporter.responses import Request
    from wsgi_prom.live.figures import Figures


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


class LivePage:
    """
    The page of the figures that *read* returns, with *links*: paths and what they are called. For any number of threads.
    """

    def __init__(self, read: Callable[[], Figures], links: Iterable[tuple[str, str]]) -> None:
        self._history = History(read)
        self._links = tuple(links)

    def respond(self, request: Request, *, json_by_default: bool, gzipped: bool) -> Response:
        """
        Return the page, or its JSON, as *request* prefers by its Accept header; 503 if the directory cannot be read.

        With *json_by_default* it is JSON for those who take both. *gzipped*: the client takes compressed pages.
        """
        try:
            view = self._history.look()
        except (DirectoryError, OSError) as error:
            return plain(503, f"{error}\n")
        offers = ["application/json", "text/html"] if json_by_default else ["text/html", "application/json"]
        header = request.headers.get("Accept", "") or "*/*"
        found = create_accept_header(header[:2000]).acceptable_offers(offers)
        kind = found[0][0] if found else offers[0]
        if kind == "application/json":
            body = json.dumps(view.to_json()).encode("ascii")
        else:
            order = {name: request.GET.get(name, "") for name in ("routes", "workers")}
            figures = self._history.figures
            body = live_html.page(view, order, self._links, figures.measured if figures else ()).encode(
                errors="replace"
            )
        response = Response(content_type=kind)
        if kind == "text/html":
            response.charset = "utf-8"
        response.headers.update(_HEADERS.items())
        response.vary = ("Accept", "Accept-Encoding")
        if gzipped and len(body) >= _COMPRESS_FROM:
            body = gzip.compress(body, compresslevel=1, mtime=0)
            response.content_encoding = "gzip"
        response.body = body
        return response
