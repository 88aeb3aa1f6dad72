"""
The response of an application that is not a list: what goes to the server in its place, and how its end is told.
"""

# Rule 1: a response whose first chunk is as long as its headers tell is known to be complete before the server gets it,
#         and nothing of ours is called after that. Nearly all of Flask's are: this takes a third of what it costs to
#         wait for the end.
# Rule 2: the first chunk is asked for early only where a length is told, and not of HEAD, whose body a server need not
#         look at. What that raises is raised when the server asks for it, so that it closes the application's iterable.
# Rule 3: otherwise the application's iterable is read by a generator, since one is resumed for less than a call of
#         __next__. It has begun before a server sees it: one that is closed before its first next() never runs what it
#         has to at the end, so that the request would stay in progress for ever.
# Rule 4: what goes to the server is not that generator: the application's close() is called when the server calls
#         ours, and not when the last chunk was read.
# Rule 5: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.

from __future__ import annotations

import sys
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.files import File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsgi_prom.request import MeasuredRequest

    # What counts a request whose response is complete.
    Finish = Callable[[MeasuredRequest], None]
    # Returns what goes to the server, and its size if that is complete. If it is not, it tells its end itself.
    Look = Callable[[MeasuredRequest, Any, Finish], tuple[Any, int | None]]

_LENGTH: Final = "Content-Length"

# An application may make a type for each response.
_MOST_TYPES: Final = 100

_COMPLETE: Final = frozenset({list, tuple, bytes, str, type(None)})
_ABSENT: Final = object()


class Whole(chain[bytes]):
    """The first chunk of an iterable, which is known to be all, and what the iterable does after it."""

    __slots__ = ("close",)

    close: Callable[[], object]


class Body:
    """An iterable around the application's, for one thread and one pass like any WSGI response."""

    __slots__ = ("_chunks", "_request", "_result")

    def __init__(self, request: MeasuredRequest, result: Any, chunks: Iterator[bytes]) -> None:
        self._request = request
        self._result = result
        self._chunks = chunks
        next(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        try:
            try:
                close = self._result.close
            except AttributeError:
                return
            close()
        finally:
            # The end was not reached: the client has left, or the server stopped early.
            if self._request.token is not None:
                self._request.abort()


class SizedBody(Body):
    """A body whose number of items the application's iterable tells."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)


def respond(
    request: MeasuredRequest,
    result: Any,
    sent: int | None,
    wrapper: Any,
    finish: Finish,
    looks: dict[type, Look],
) -> Any:
    """
    Return what goes to the server as the application's *result*, and measure *request* to its end.

    *sent* is its size where that is known. *wrapper* is the server's file_wrapper, None if it has none. *looks* learns how
    to look at results of this type.
    """
    if request.token is None:  # counted by a write(), dismissed, or never begun
        return result
    kind: type = type(result)
    if sent is not None:
        request.sent += sent
        request.leave()
        return result
    if kind in _COMPLETE:
        request.complete(result)
        return result
    if issubclass(kind, wrapper if isinstance(wrapper, type) else File):
        request.takes_file(result)
        return result
    if hasattr(kind, "__len__"):
        return SizedBody(request, result, _read(request, result, finish))
    look = look_into_django if _is_of_django(kind) else look_at_first
    if len(looks) < _MOST_TYPES:
        looks[kind] = look
    body, sent = look(request, result, finish)
    if sent is not None:
        request.sent += sent
        finish(request)
    return body


def look_at_first(request: MeasuredRequest, result: Any, finish: Finish) -> tuple[Any, int | None]:
    """Look at the first chunk of *result*, if the headers tell of its length."""
    told = None
    try:
        for name, value in request._headers:
            if name == _LENGTH:
                told = value
                break
    except Exception:  # of a container of the application's own, or not yet told
        told = None
    chunks = result
    if told is not None and request.method != "HEAD":
        try:
            chunks = iter(result)
            chunk = next(chunks, _ABSENT)
        except BaseException as error:
            chunks = _raise(error)
        else:
            if type(chunk) is bytes and chunk and f"{len(chunk)}" == told:
                body = Whole((chunk,), chunks)
                try:  # noqa: SIM105 - which takes 4,000 instructions
                    body.close = result.close
                except AttributeError:
                    pass
                return body, len(chunk)
            if chunk is not _ABSENT:
                chunks = chain((chunk,), chunks)
    return Body(request, result, _read(request, chunks, finish)), None


def look_into_django(request: MeasuredRequest, result: Any, finish: Finish) -> tuple[Any, int | None]:
    """Take the size of Django's own response that does not stream: it holds all of its content."""
    try:
        return result, len(result.content)
    except Exception:  # the framework's, or the application's
        request._recorder.fail("body")
        return Body(request, result, _read(request, result, finish)), None


def _is_of_django(kind: Any) -> bool:
    """Tell a class of Django's responses that do not stream, or one that changes nothing of how they are sent."""
    response = getattr(sys.modules.get("django.http"), "HttpResponse", None)
    if response is None or not issubclass(kind, response):
        return False
    makers = {
        next(base for base in kind.__mro__ if name in vars(base)).__module__.partition(".")[0]
        for name in ("__iter__", "content", "streaming")
    }
    return makers == {"django"}


def _raise(error: BaseException) -> Iterator[bytes]:
    # Not before it is asked for a chunk.
    yield from ()
    raise error


def _read(request: MeasuredRequest, result: Iterable[Any], finish: Finish) -> Iterator[bytes]:
    """Yield nothing, and then what *result* yields. Counts *request* before its last chunk if its length is told."""
    try:
        yield b""
        for chunk in result:
            # Anything at all: what it does is not to be taken for what the application does.
            request.passed(chunk)
            yield chunk
        # Here and not in close(): a server that ends a response with its last chunk's frame, or by closing the
        # connection, does so after this. A worker that dies then has counted what its client has seen.
        if request.token is not None:
            finish(request)
    except GeneratorExit:
        # A server that does not call close(): cheroot, where start_response was never called.
        if request.token is not None:
            request.abort()
        raise
    except BaseException as error:
        request.fail(error)
        raise
