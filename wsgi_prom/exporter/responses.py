"""WebOb's requests and responses, imported in one place, and the time at which a request arrived."""

from __future__ import annotations

import io
import json
import warnings
from typing import TYPE_CHECKING, Final

from wsgi_prom.errors import DirectoryError

if TYPE_CHECKING:
    from collections.abc import Callable

with warnings.catch_warnings():
    # WebOb 1.8 imports cgi, which Python 3.11 and 3.12 deprecate: an error for a user whose warnings are errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    from webob import Request, Response
    from webob.acceptparse import create_accept_encoding_header, create_accept_header

__all__ = (
    "ARRIVAL",
    "Request",
    "Response",
    "create_accept_encoding_header",
    "create_accept_header",
    "json_page",
    "plain",
    "set_body",
)


# The key in environ of the time (time.monotonic) at which the whole request had arrived. Only the exporter's server sets it.
ARRIVAL: Final = "wsgi_prom.arrival"


def plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return a response of *text*; a header may occur several times."""
    response = Response(status=status, body=text.encode(), content_type="text/plain", charset="utf-8")
    for name, value in headers:
        response.headers.add(name, value)
    return response


def set_body(response: Response, request: Request, body: bytes) -> None:
    """Set the *body* of the *response* to *request*, which other clients may get too."""
    if ARRIVAL in request.environ:
        # The exporter's server does not copy a file: clients that read the same page slowly share its bytes.
        response.app_iter = request.environ["wsgi.file_wrapper"](io.BytesIO(body))
        response.content_length = len(body)
    else:
        response.body = body


def json_page(read: Callable[[], object]) -> Response:
    """Return a response of what *read* returns, as JSON; 503 if it cannot."""
    try:
        body = json.dumps(read()).encode("ascii")
    except (DirectoryError, OSError) as error:
        return plain(503, f"{error}\n")
    return Response(body=body, content_type="application/json")
