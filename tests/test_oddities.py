"""Unusual servers and applications: each request is counted once, and no error of ours is raised."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper

import pytest
from test_middleware import HEADERS, Closable, all_recorded, environ_of

from wsgi_prom import PrometheusMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Readable:
    """A file-like object with read() alone, which is all that PEP 3333 asks for."""

    def __init__(self) -> None:
        self._file = io.BytesIO(b"abcdef")

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 4))


class Sealed:
    """The result of a server's file_wrapper, which takes no new attributes."""

    __slots__ = ("__dict__", "filelike")

    def __init__(self, filelike: Any, _size: int = 0) -> None:
        object.__getattribute__(self, "__dict__")["filelike"] = filelike

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"abcdef"])


class Kind(type):
    """A metaclass whose types refuse every look-up of an attribute."""

    def __hash__(cls) -> int:
        raise RuntimeError("asked for its hash")

    def __getattr__(cls, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


class Hostile(metaclass=Kind):
    def __iter__(self) -> Iterator[bytes]:
        return iter([b"abcdef"])


ENVIRONS: dict[str, dict[str, Any]] = {
    "method None": {"REQUEST_METHOD": None},
    "method bytes": {"REQUEST_METHOD": b"GET"},
    "method that has no hash": {"REQUEST_METHOD": ["GET"]},
    "path None": {"PATH_INFO": None},
    "path bytes": {"PATH_INFO": b"/a"},
    "path int": {"PATH_INFO": 7},
    "length int": {"CONTENT_LENGTH": 2},
    "length bytes": {"CONTENT_LENGTH": b"2"},
    "length None": {"CONTENT_LENGTH": None},
    "chunked None": {"HTTP_TRANSFER_ENCODING": None},
    "input None": {"CONTENT_LENGTH": "2", "wsgi.input": None},
    "input of a number": {"CONTENT_LENGTH": "2", "wsgi.input": 7},
    "start None": {"HTTP_X_REQUEST_START": None},
    "start int": {"HTTP_X_REQUEST_START": 7},
    "start bytes": {"HTTP_X_QUEUE_START": b"t=7"},
    "file_wrapper None": {"wsgi.file_wrapper": None},
    "file_wrapper of a number": {"wsgi.file_wrapper": 7},
    "server None": {"SERVER_SOFTWARE": None, "REQUEST_METHOD": "HEAD"},
    "server of no version": {"SERVER_SOFTWARE": "gunicorn", "REQUEST_METHOD": "HEAD"},
    "server of an odd version": {"SERVER_SOFTWARE": "gunicorn/x.\u0664.1", "REQUEST_METHOD": "HEAD"},
    "script name None": {"SCRIPT_NAME": None},
    "route None": {"wsgi_prom.route": None},
    "werkzeug's request": {"werkzeug.request": 7},
    "bottle's route": {"bottle.route": 7},
}


def started(result: Any, status: Any = "200 OK", headers: Any = HEADERS) -> Callable[..., Any]:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, headers)
        return result(environ) if callable(result) else result

    return app


def moved(environ: Any, start_response: Any) -> Any:
    environ["PATH_INFO"] = None
    start_response("200 OK", HEADERS)
    return [b"abcdef"]


def cleared(environ: Any, start_response: Any) -> Any:
    environ.clear()
    start_response("200 OK", HEADERS)
    return [b"abcdef"]


def sent_file(file: Any, wrapper: Any = None) -> Callable[..., Any]:
    return lambda environ: (wrapper or environ["wsgi.file_wrapper"])(file(), 4)


RESULTS: dict[str, Callable[..., Any]] = {
    "list of numbers": started([7]),
    "list of None": started([None]),
    "text": started("abcdef"),
    "dict": started({b"abcdef": 1}),
    "hostile": started(Hostile()),
    "more than was told": started(
        lambda _: Closable([b"abc", b"de", b"f"]), headers=[("Content-Length", "3")]
    ),
    "an empty chunk after all": started(
        lambda _: Closable([b"abcdef", b""]), headers=[("Content-Length", "6")]
    ),
    "file without close": started(sent_file(Readable)),
    "file of a sealed wrapper": started(sent_file(io.BytesIO, Sealed)),
    "status bytes": started([b"abcdef"], status=b"200 OK"),
    "status None": started([b"abcdef"], status=None),
    "status int": started([b"abcdef"], status=200),
    "status empty": started([b"abcdef"], status=""),
    "headers None": started(lambda _: Closable([b"abcdef"]), headers=None),
    "headers of numbers": started(lambda _: Closable([b"abcdef"]), headers=[(7, 7)]),
    "length int": started(lambda _: Closable([b"abcdef"]), headers=[("Content-Length", 6)]),
    "length of odd digits": started(lambda _: Closable([b"abcdef"]), headers=[("Content-Length", "\u00b2")]),
    "environ cleared": cleared,
    "path moved": moved,
}


def served(app: Any, environ: dict[str, Any]) -> list[Any]:
    """Serve a request as a tolerant server does, and return what it got."""
    result = app(environ, lambda *_: None)
    found = list(result)
    if hasattr(result, "close"):
        result.close()
    return found


@pytest.mark.parametrize("first_byte", [False, True])
@pytest.mark.parametrize("name", [*ENVIRONS, *RESULTS])
def test_a_request_is_counted_whatever_is_odd_about_it(name: str, first_byte: bool, in_child: Any) -> None:
    """Each request is counted once, nothing stays in progress, and the server gets what the application gave."""
    app = RESULTS.get(name, started([b"abcdef"]))

    def environ() -> dict[str, Any]:
        return {**environ_of(**{"wsgi.file_wrapper": FileWrapper}), **ENVIRONS.get(name, {})}

    def work() -> Any:
        measured = PrometheusMiddleware(app, first_byte=first_byte)
        found = [served(measured, environ()) for _ in range(2)]
        return found, served(app, environ()), all_recorded()

    got, bare, found = in_child(work)
    assert [bare, bare] == got
    counted = {key: value for key, value in found.items() if key.startswith("http_requests_total")}
    assert [2.0] == list(counted.values())
    assert 0 == found["http_requests_in_progress{}"]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("more than was told", 3),
        ("file without close", 6),
        ("an empty chunk after all", 6),
        ("length int", 6),
    ],
)
def test_an_oddity_that_is_none_of_ours_is_no_failure_of_ours(name: str, size: int, in_child: Any) -> None:
    """
    A fault of the server or the application is not counted as a failure of ours, and the rest of the request is
    measured.
    """

    def work() -> Any:
        served(PrometheusMiddleware(RESULTS[name]), environ_of(**{"wsgi.file_wrapper": FileWrapper}))
        return all_recorded()

    found = in_child(work)
    assert {} == {key: value for key, value in found.items() if "wsgi_prom_errors" in key}
    assert size == found["http_response_size_bytes_sum{GET,unmatched}"]
