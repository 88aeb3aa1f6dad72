"""
A response that is not a list: the iterable that the server gets in its place, and how the end is noticed.
"""

# Rule 1: the application's iterable is read by a generator, since one is resumed for less than a call of __next__. It
#         has begun before a server sees it: one that is closed before its first next() never runs what it has to at the
#         end, so that the request would stay in progress for ever.
# Rule 2: what goes to the server is not that generator: the application's close() is called when the server calls
#         ours, and not when the last chunk was read.
# Rule 3: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.
# Rule 4: nothing is asked of the application's iterable before the server asks. (To look at the first chunk early, and
#         then to be done with it where that is all, takes 4 % off what a Flask request costs, and was not kept.)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request.file_wrapper import File
from wsgi_prom.request.response_sizes import size_of
from wsgi_prom.request.websocket import switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.request.request import MeasuredRequest
    from wsgi_prom.request.response_sizes import Size

    # What counts a request whose response is complete.
    Finish = Callable[[MeasuredRequest], None]

_LENGTH: Final = "Content-Length"

# An application may make a type for each response.
_MOST_TYPES: Final = 100

_COMPLETE: Final = (list, tuple, bytes, str, type(None))


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
    wrapper: type | None,
    finish: Finish,
    sizes: dict[type, Size],
) -> Any:
    """
    Return what goes to the server as the application's *result*, and measure *request* to its end.

    *sent* is its size where that is known. *wrapper* is the server's file_wrapper if that is a class. *sizes* learns what
    tells the size of results of this type, where they are no files.
    """
    # Counted by a write(), dismissed, or never begun.
    if request.token is None or switches(request, result):
        return result
    try:
        return _respond(request, result, sent, wrapper, finish, sizes)
    except Exception:  # a type or a server's object of an unforeseen form
        request._recorder.fail("body")
        request.leave()
        return result


def _respond(
    request: MeasuredRequest,
    result: Any,
    sent: int | None,
    wrapper: type | None,
    finish: Finish,
    sizes: dict[type, Size],
) -> Any:
    kind: type = type(result)
    if sent is not None:
        request.sent += sent
        request.leave()
        return result
    if any(kind is complete for complete in _COMPLETE):
        request.complete(result)
        return result
    # The environ's too: a process may have another server, as a test's.
    wrappers = (File, wrapper, request._environ.get("wsgi.file_wrapper"))
    if issubclass(kind, tuple(known for known in wrappers if isinstance(known, type))):
        request.takes_file(result)
        return result
    body: type[Body] = SizedBody
    if not hasattr(kind, "__len__"):
        body, size = Body, size_of(kind)
        # (A metaclass may take the hash from its types.)
        if len(sizes) < _MOST_TYPES and type(kind).__hash__ is not None:
            sizes[kind] = size
        sent = size(result)
    if sent is None:
        return wrap(request, result, finish, body)
    request.sent += sent
    finish(request)
    return result


def wrap(request: MeasuredRequest, result: Any, finish: Finish, kind: type[Body] = Body) -> Any:
    """Put a body around *result* that tells its end, unless the request is not measured, or no more."""
    if request.token is None:
        return result
    body = kind()
    body._request = request
    body._result = result
    body._chunks = chunks = _read(request, result, finish)
    next(chunks)
    return body


def _read(request: MeasuredRequest, result: Any, finish: Finish) -> Iterator[bytes]:
    """Yield nothing, and then what *result* yields. Counts *request* before its last chunk if its length is told."""
    try:
        yield b""
        for chunk in result:
            # Anything at all: what it does is not to be taken for what the application does.
            if request.sent or type(chunk) is not bytes:
                request.passed(chunk)
            elif chunk:
                # Most responses are one chunk, whose length is told like this, or not at all.
                try:
                    whole = (_LENGTH, f"{len(chunk)}") in request._headers
                except Exception:  # of a container of the application's own, or not yet told
                    whole = False
                if whole:
                    request.sent = len(chunk)
                    finish(request)
                else:
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
