"""
The body of a response that is not over when the application returns: an iterable that tells its own end.
"""

# Rule 1: the application's iterable is read by a generator, since one is resumed for less than a call of __next__. It
#         has begun before a server sees it: one that is closed before its first next() never runs what it has to at the
#         end, so that the request would stay in progress for ever.
# Rule 2: what goes to the server is not that generator: the application's close() is called when the server calls
#         ours, and not when the last chunk was read.
# Rule 3: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.
# Rule 4: what is usual is done in the generator, and without a call of a function but for the count: each costs 430
#         instructions, and in a framework, whose own code fills the processor's caches, three times their time.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.files import File

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsgi_prom.request import MeasuredRequest

    # What counts a request whose response is complete.
    Finish = Callable[[MeasuredRequest], None]


_LENGTH: Final = "Content-Length"
_LOWER_LENGTH: Final = "content-length"
# An application may make one for each response.
_MOST_TYPES: Final = 100

_COMPLETE: Final = frozenset({list, tuple, bytes, str, type(None)})


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


def read(  # noqa: C901, PLR0912 - rule 4
    request: MeasuredRequest, result: Any, finish: Finish
) -> Iterator[bytes]:
    """Yield nothing, and then what *result* yields. Counts *request* before its last chunk if its length is told."""
    length = 0
    try:
        yield b""
        for chunk in result:
            # Anything at all: what it does is not to be taken for what the application does.
            if type(chunk) is not bytes:
                request.passed(chunk)
            elif chunk:
                size = len(chunk)
                if request.sent:
                    length = length or request.told_length()
                    request.sent = sent = request.sent + size
                    if sent >= length:
                        finish(request)
                else:
                    request.sent = size
                    try:
                        # Most responses are one chunk. That it is all is told in one of these two spellings, if at all.
                        told, headers = f"{size}", request._headers
                        whole = (_LENGTH, told) in headers or (_LOWER_LENGTH, told) in headers
                    except Exception:  # a container of the application's own
                        whole = False
                    if whole:
                        finish(request)
                    elif request._recorder.times_first_byte:
                        request.note_first_byte()
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


def respond(
    request: MeasuredRequest, result: Any, wrapper: Any, finish: Finish, bodies: dict[type, type[Body]]
) -> Any:
    """
    Return what goes to the server as the application's *result*, and measure *request* to its end.

    *wrapper* is the server's file_wrapper, None if it has none. In *bodies* is noted what wraps results of this type.
    """
    if request.token is None:  # counted by a write(), dismissed, or never begun
        return result
    kind: type = type(result)
    if kind in _COMPLETE:
        request.complete(result)
        return result
    if issubclass(kind, wrapper if isinstance(wrapper, type) else File):
        request.takes_file(result)
        return result
    body = SizedBody() if hasattr(kind, "__len__") else Body()
    if len(bodies) < _MOST_TYPES:
        bodies[kind] = type(body)
    body._request = request
    body._result = result
    body._chunks = read(request, result, finish)
    next(body._chunks)
    return body
