"""
The response of a measured request, where it is not over when the application returns: a body that tells its end.
"""

# Rule 1: not a generator: one that is closed before its first next() never runs its `finally`, so that the request
#         would stay in progress for ever.
# Rule 2: no `__len__` unless the application's iterable has one: servers take the Content-Length of a body of one
#         item from it, and waitress answers 500 when it fails.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Request(Protocol):
    """What is told how the body ended. Nothing of it raises; after the first call, later ones do nothing."""

    def passed(self, chunk: bytes) -> None: ...

    def finish(self) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class Body:
    """An iterable around the application's, for one thread and one pass like any WSGI response."""

    __slots__ = ("_iterator", "_request", "_result")

    def __init__(self, result: Iterable[bytes], request: Request) -> None:
        self._result = result
        self._request = request
        self._iterator: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._iterator = iter(self._result)
        except BaseException as error:
            self._request.fail(error)
            raise
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._iterator)
        except StopIteration:
            # Here and not in close(): a server that ends a response with its last chunk's frame, or by closing the
            # connection, does so after this. A worker that dies then has counted what its client has seen.
            self._request.finish()
            raise
        except BaseException as error:
            self._request.fail(error)
            raise
        self._request.passed(chunk)
        return chunk

    def close(self) -> None:
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            self._request.finish()


class SizedBody(Body):
    """A body whose number of items the application's iterable tells."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._result)  # type: ignore[arg-type]


def wrap(result: Any, request: Request) -> Body:
    return SizedBody(result, request) if hasattr(result, "__len__") else Body(result, request)
