"""WebOb's requests and responses, imported in one place."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # WebOb 1.8 imports cgi, which Python 3.11 and 3.12 deprecate: an error for a user whose warnings are errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    from webob import Request, Response
    from webob.acceptparse import create_accept_encoding_header, create_accept_header

__all__ = ("Request", "Response", "create_accept_encoding_header", "create_accept_header", "plain")


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response of *text*; a header may occur several times."""
    response = Response(status=status, body=text.encode(), content_type="text/plain", charset="utf-8")
    for name, value in headers:
        response.headers.add(name, value)
    return response
