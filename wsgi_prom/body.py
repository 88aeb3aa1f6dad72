"""
What a request turns into where its response is not over when the application returns: a body that tells its own end.
"""

# Rule 1: not a generator: one that is closed before its first next() never runs its `finally`, so that the request
#         would stay in progress for ever. What the body is read by is one, since a generator is resumed for less than
#         a call of __next__: it has no `finally`, and none needs to run.
# Rule 2: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.
# Rule 3: the request itself becomes the body (a class with the same slots). An object beside it, and a call to it at
#         each step, cost a Flask request 6,000 instructions more.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wsgi_prom.request import MeasuredRequest
from wsgi_prom.routes import REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator


class Body(MeasuredRequest):
    """An iterable around the application's, for one thread and one pass like any WSGI response."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        try:
            iterator = iter(self._result)
        except BaseException as error:
            self.fail(error)
            raise
        return self._chunks(iterator)

    def _chunks(self, iterator: Iterator[bytes]) -> Iterator[bytes]:
        try:
            for chunk in iterator:
                # Anything at all: what it does is not to be taken for what the application does.
                if type(chunk) is not bytes:
                    self.passed(chunk)
                elif chunk:  # as `passed` does, without the call
                    if not self.sent:
                        self.begin()
                    self.sent = sent = self.sent + len(chunk)
                    if sent >= self.length:
                        self.leave()
                yield chunk
        except GeneratorExit:  # nobody wants more
            raise
        except BaseException as error:
            self.fail(error)
            raise
        # Here and not in close(): a server that ends a response with its last chunk's frame, or by closing the
        # connection, does so after this. A worker that dies then has counted what its client has seen.
        if self.token is not None:
            self.leave()

    def close(self) -> None:
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            # The end was not reached: the client has left, or the server stopped early.
            if self.token is not None:
                self.abort()

    def __del__(self) -> None:
        # A server that does not call close(): cheroot, where start_response was never called.
        if self.token is not None:
            self.abort()


class SizedBody(Body):
    """A body whose number of items the application's iterable tells."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)


_COMPLETE: Final = frozenset({list, tuple, bytes, str, type(None)})


def respond(request: MeasuredRequest, result: Any, wrapper: Any) -> Any:
    """
    Return what goes to the server as the application's *result*, and measure *request* to its end.

    *wrapper* is the server's file_wrapper, None if it has none.
    """
    if request.token is None:  # counted by a write(), dismissed, or never begun
        return result
    kind: type = type(result)
    if kind in _COMPLETE:
        request.complete(result)
        return result
    if wrapper is not None and request.takes_file(result, wrapper):
        return result
    request._result = result
    # The environ would keep what the server has let go of.
    request._environ[REQUEST] = request.entered
    request.__class__ = SizedBody if hasattr(result, "__len__") else Body
    return request
