"""
Responses that are not a list of one item: what the server gets, and when the request is counted.

1. The application's iterable is read by a generator, since one is resumed for less than a call of __next__. The generator
   has begun before a server sees it: one that is closed before its first next() never runs its `finally`, so that the
   request would stay in progress for ever.
2. The server gets an object around that generator, and not the generator: the application's close() is called when the
   server calls ours, and not when the last chunk was read.
3. The object has a `__len__` only if the application's iterable has one: servers take the Content-Length of a body of one
   item from it, and waitress answers 500 when it fails.
4. Nothing is asked of the application's iterable before the server asks. (To read the first chunk early takes 4 % off the
   cost of a Flask request with one chunk, and was not kept.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsgi_prom.request.file_wrapper import File, measure_file
from wsgi_prom.request.response_sizes import size_of
from wsgi_prom.request.websocket import takes_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsgi_prom.request.request import MeasuredRequest


class Body:
    """An iterable around the application's, for one thread and one pass like any WSGI response."""

    __slots__ = ("_chunks", "_request", "_result")

    _chunks: Iterator[bytes]
    _request: MeasuredRequest
    _result: Any

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            # The end was not reached: the client has left, or the server stopped early.
            self._request.abort()


class SizedBody(Body):
    """A body whose number of items the application's iterable tells."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)


def respond(request: MeasuredRequest, result: Any) -> Any:
    """Return what goes to the server as the application's *result*, and measure *request* to its end. Never raises."""
    if request.token is None:  # counted by a write(), or dismissed
        return result
    try:
        # First, as it is most of what frameworks return: Flask's and Django's responses cost 15 % less.
        sent = size_of(result)
        if sent is not None:
            request.sent += sent
            request.record(b"")
            return result
        kind: type = type(result)
        if not hasattr(request, "status") and takes_connection(result, websocket=request.extras.websocket):
            request.switch()
        elif kind is list or kind is tuple or kind is bytes or kind is str or result is None:
            _count_complete(request, result)
        elif _is_file(request, kind):
            measure_file(request, result)
        else:
            return _wrap(request, result, SizedBody if hasattr(kind, "__len__") else Body)
    except Exception:  # a type or a server's object of an unforeseen form
        request.recorder.report_failure("body")
        request.record(b"")
    return result


def _is_file(request: MeasuredRequest, kind: type) -> bool:
    # The environ's too: a process may have another server, as a test's.
    for known in (File, request.file_wrapper, request.environ.get("wsgi.file_wrapper")):
        if isinstance(known, type) and issubclass(kind, known):
            return True
    return False


def _count_complete(request: MeasuredRequest, result: Any) -> None:
    if result is None or isinstance(result, str):
        # No server takes that, and each says so itself.
        request.status = "500"
        request.recorder.end(request)
        return
    try:
        sent = len(result) if isinstance(result, bytes) else sum(map(len, result))
        if sent and not request.sent:
            request.note_first_byte()
        request.sent += sent
    except Exception:  # items that are not bytes: the server says so
        request.recorder.report_failure("body")
    request.record(b"")


def _wrap(request: MeasuredRequest, result: Any, kind: type[Body]) -> Body:
    body = kind()
    body._request = request
    body._result = result
    body._chunks = chunks = _read(request, result)
    next(chunks)
    return body


def _read(request: MeasuredRequest, result: Any) -> Iterator[bytes]:
    """Yield nothing, and then what *result* yields. Counts *request* before its last chunk if its length is told."""
    try:
        yield b""
        for chunk in result:
            request.count_chunk(chunk)
            yield chunk
        # Here and not in close(): a server that ends a response with its last chunk's frame, or by closing the
        # connection, does so after this. A worker that dies then has counted what its client has seen.
        request.record(b"")
    except GeneratorExit:
        # A server that does not call close(): cheroot, where start_response was never called.
        request.abort()
        raise
    except BaseException as error:
        request.fail(error)
        raise
