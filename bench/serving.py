"""
A server without sockets: it makes environs as gunicorn does, and iterates and closes the result.

It is the same for all contenders and does as little as a server can; its cost is part of the bare application's figure.
"""

from __future__ import annotations

import gc
import io
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH: Final = "/users/42"

# As a browser behind a proxy sends them.
_HEADERS: Final = {
    b"HTTP_HOST": b"shop.example.com",
    b"HTTP_USER_AGENT": b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    b"HTTP_ACCEPT": b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    b"HTTP_ACCEPT_LANGUAGE": b"en-US,en;q=0.5",
    b"HTTP_ACCEPT_ENCODING": b"gzip, deflate, br, zstd",
    b"HTTP_REFERER": b"https://shop.example.com/users",
    b"HTTP_COOKIE": b"session=.eJwljjkOAzEIAP_iOgUYMLCfWWFAG2m2",
    b"HTTP_X_FORWARDED_FOR": b"192.0.2.7",
    b"HTTP_X_FORWARDED_PROTO": b"https",
    b"HTTP_CONNECTION": b"close",
}


class FileWrapper:
    """A class, as gunicorn's and wsgiref's is."""

    def __init__(self, filelike: Any, blksize: int = 8192) -> None:
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self) -> Iterator[bytes]:
        return iter(partial(self.filelike.read, self.blksize), b"")


def environs(count: int, paths: Iterator[bytes] | None = None) -> list[dict[str, Any]]:
    """
    Return that many environs, each to be served once: of the usual path, or of the next of *paths*.

    Without a garbage collection meanwhile: the garbage of earlier requests is to count in the time of the next ones.
    """
    gc.disable()
    try:
        return [_environ(PATH.encode() if paths is None else next(paths)) for _ in range(count)]
    finally:
        gc.enable()


def _environ(path: bytes) -> dict[str, Any]:
    # New texts for each request, as a server makes them: their hashes are not computed yet.
    method, target, query, protocol = (
        text.decode("latin-1") for text in (b"GET", path, b"page=2&sort=name", b"HTTP/1.1")
    )
    environ = {
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "wsgi.input": io.BytesIO(),
        "gunicorn.socket": None,
        "REQUEST_METHOD": method,
        "QUERY_STRING": query,
        "RAW_URI": f"{target}?{query}",
        "SERVER_PROTOCOL": protocol,
        "SERVER_SOFTWARE": "gunicorn",
    }
    for name, value in _HEADERS.items():
        environ[name.decode("latin-1")] = value.decode("latin-1")
    environ.update(
        {
            "wsgi.url_scheme": "http",
            "REMOTE_ADDR": "127.0.0.1",
            "REMOTE_PORT": "40312",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "PATH_INFO": target,
            "SCRIPT_NAME": "",
        }
    )
    return environ


def start_response(_status: str, _headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
    return write


def write(_chunk: bytes) -> None:
    """Take a piece of the body, and do nothing with it."""


def serve(app: Any, requests: list[dict[str, Any]]) -> None:
    """Serve *requests* as gunicorn's worker does, and forget each when it is over: the list is empty afterwards."""
    while requests:
        environ = requests.pop()
        result = app(environ, start_response)
        try:
            if not isinstance(result, environ["wsgi.file_wrapper"]):
                for chunk in result:
                    write(chunk)
        finally:
            if hasattr(result, "close"):
                result.close()
