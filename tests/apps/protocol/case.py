"""What the cases are made of: the table of them, and iterables that tell what is done with them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


TYPE: Final = ("Content-Type", "text/plain")
BODY: Final = b"the body of the answer\n"
CHUNKS: Final = (b"first\n", b"second\n", b"third\n")
LENGTH: Final = ("Content-Length", str(len(BODY)))
CHUNKS_LENGTH: Final = ("Content-Length", str(len(b"".join(CHUNKS))))

# A file that `close` and the like are noted in, for tests that look from outside the server.
EVENTS: Final = "PROTOCOL_EVENTS"


class FailureError(Exception):
    """What the cases raise."""


class Case(NamedTuple):
    """
    An application, the request that shows it, and how often close() is called on what it returns.

    Of a case that is *short*, the Content-Length promises more than there is: a client that waits for the rest waits
    until the server has lost its patience.
    """

    app: WSGIApplication
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    closed: int = 0
    short: bool = False


CASES: Final[dict[str, Case]] = {}


def case(**options: Any) -> Callable[[WSGIApplication], WSGIApplication]:
    def add(function: Any) -> Any:
        CASES[options.pop("name", function.__name__)] = Case(function, **options)
        return function

    return add


def note(environ: WSGIEnvironment, event: str) -> None:
    """
    Note *event* under the request's query string: in environ where it has a list for that, else in the file.
    """
    if "protocol.events" in environ:
        environ["protocol.events"].append(event)
    elif EVENTS in os.environ:
        # One write to a file opened for appending: whole lines, whichever worker or thread they come from.
        handle = os.open(os.environ[EVENTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{environ['QUERY_STRING']} {event}\n".encode())
        os.close(handle)


def failure(environ: WSGIEnvironment, text: str = "asked to fail") -> FailureError:
    """
    Return the exception to raise, which a test in this process finds in environ.
    """
    error = FailureError(text)
    if "protocol.events" in environ:
        environ["protocol.raised"] = error
    return error


class Chunks:
    """An iterator with neither close() nor a length."""

    def __init__(self, chunks: Iterable[Any] = CHUNKS) -> None:
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)


class Closing(Chunks):
    """An iterator whose close() is noted."""

    def __init__(self, environ: WSGIEnvironment, chunks: Iterable[Any] = CHUNKS) -> None:
        super().__init__(chunks)
        self._environ = environ

    def close(self) -> None:
        note(self._environ, "close")


class Sized(Closing):
    """An iterator with close() and a length."""

    def __init__(self, environ: WSGIEnvironment, chunks: tuple[bytes, ...] = CHUNKS) -> None:
        super().__init__(environ, chunks)
        self._size = len(chunks)

    def __len__(self) -> int:
        return self._size


class ClosingList(list):  # type: ignore[type-arg]
    """A list by inheritance, with more to it: a server that tests for close() calls it."""

    environ: WSGIEnvironment

    def close(self) -> None:
        note(self.environ, "close")


def complete(result: Any, *headers: tuple[str, str], status: str = "200 OK") -> WSGIApplication:
    """
    Return an application whose whole answer is *result*.
    """

    def answer(_environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        start_response(status, [TYPE, *headers])
        return result

    return answer


def noting(environ, chunks):
    try:
        yield from chunks
    finally:
        note(environ, "close")
