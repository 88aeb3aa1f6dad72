"""Short answers in plain text."""

from __future__ import annotations

from wsgi_prom.exporter.webob import Response


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return an answer of *text*; a header may be there several times."""
    response = Response(status=status, body=text.encode(), content_type="text/plain", charset="utf-8")
    for name, value in headers:
        response.headers.add(name, value)
    return response
