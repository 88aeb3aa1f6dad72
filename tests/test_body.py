"""Responses that are not lists: what the server gets instead of them, and when they are counted."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TYPE = ("Content-Type", "text/plain")


class FailureError(Exception):
    """The exception that the test applications raise."""


class Chunks:
    """An iterator that notes each call, and raises those of its items that are exceptions."""

    def __init__(self, *chunks: Any) -> None:
        self.asked: list[str] = []
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.asked.append("next")
        chunk: Any = next(self._chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk  # type: ignore[no-any-return]

    def close(self) -> None:
        self.asked.append("close")


def ask(result: Any, *headers: tuple[str, str], method: str = "GET", status: str = "200 OK") -> Any:
    """Return what a server gets from an application that returns *result*."""

    def app(_environ: Any, start_response: Any) -> Any:
        start_response(status, [TYPE, *headers])
        return result

    return answer(app, method)


def answer(app: Any, method: str = "GET") -> Any:
    """
    Return what a server gets from *app*, under the one middleware of this process, which caches the types that it
    meets.
    """
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "test.app": app}
    setup_testing_defaults(environ)
    return middleware()(environ, lambda *_: None)


@cache
def middleware() -> Any:
    return PrometheusMiddleware(lambda environ, start_response: environ["test.app"](environ, start_response))


SHOWN = {
    "http_requests_in_progress": "in progress",
    "http_requests_aborted_total": "aborted",
    "http_response_size_bytes_sum": "bytes",
}


def figures() -> dict[str, float]:
    """Return the requests that this process has counted, by status, and the other metrics in SHOWN."""
    found = {"200": 0.0, "aborted": 0.0}
    for family in Collector(None).collect():
        for (name, labels), value in zip(family.samples, family.values, strict=True):
            if name == "http_requests_total" and value:
                found[dict(labels)["status"]] = value
            elif name in SHOWN:
                found[SHOWN[name]] = value
    return found


@pytest.mark.parametrize("headers", [[], [("Content-Length", "5")], [("Content-Length", "no number")]])
def test_nothing_is_asked_of_an_iterable_before_the_server_asks(
    headers: list[tuple[str, str]], in_child: Callable[..., Any]
) -> None:
    """The middleware calls nothing on an iterable before the server does; all chunks arrive once and in order."""

    def run() -> tuple[Any, ...]:
        early, chunks = [], []
        for _ in range(2):  # a type is looked at in another way when it is known
            result = Chunks(b"abcd", b"", b"e")
            body = ask(result, *headers)
            early.append([*result.asked])
            chunks.append(list(body))
            body.close()
        return early, chunks, result.asked, figures()

    assert (
        [[], []],
        [[b"abcd", b"", b"e"]] * 2,
        ["next"] * 4 + ["close"],
        {"200": 2, "in progress": 0, "bytes": 10, "aborted": 0},
    ) == in_child(run)


class Compared(type):  # noqa: PLW1641 - that it has none
    """A metaclass that makes some of its types equal, which makes those types unhashable."""

    def __eq__(cls, other: object) -> bool:
        return cls is other


class Unhashable(Chunks, metaclass=Compared):  # type: ignore[misc]
    """A class that cannot be a key of a dict."""


def test_a_type_need_not_be_hashable(in_child: Callable[..., Any]) -> None:
    """A response of an unhashable type is sent and counted, though its type is not cached."""

    def run() -> tuple[Any, ...]:
        found = [list(ask(Unhashable(b"abcd", b"e"))) for _ in range(2)]
        return found, figures()

    assert (
        [[b"abcd", b"e"]] * 2,
        {"200": 2, "in progress": 0, "bytes": 10, "aborted": 0},
    ) == in_child(run)


def test_a_response_of_one_chunk_is_counted_before_that_goes_out(in_child: Callable[..., Any]) -> None:
    """A chunk as long as Content-Length, in any spelling, is counted before it is sent."""

    def run() -> list[float]:
        counts = []
        for name in ("Content-Length", "content-length"):
            for _ in range(2):
                next(iter(ask(Chunks(b"abcd"), (name, "4"))))
                counts.append(figures()["200"])
        return counts

    assert [1, 2, 3, 4] == in_child(run)


def test_a_response_that_is_longer_than_its_first_chunk_is_in_progress_until_its_end(
    in_child: Callable[..., Any],
) -> None:
    """A client that leaves before all of Content-Length was sent is counted as aborted."""

    def run() -> tuple[Any, ...]:
        body = ask(Chunks(b"ab", b"cd"), ("Content-Length", "4"))
        next(iter(body))
        during = figures()
        body.close()
        return during, figures()

    assert (
        {"200": 0, "in progress": 1, "aborted": 0},
        {"200": 1, "in progress": 0, "aborted": 1, "bytes": 2},
    ) == in_child(run)


@pytest.mark.parametrize("error", [FailureError, SystemExit, KeyboardInterrupt])
def test_what_an_iterable_raises_is_raised_when_the_server_asks_for_it(
    error: type[BaseException], in_child: Callable[..., Any]
) -> None:
    """An exception of an iterable reaches the server at the same call as without us, so that it closes the iterable."""

    def run() -> tuple[Any, ...]:
        result = Chunks(error("told"))
        body = ask(result, ("Content-Length", "4"))
        with pytest.raises(error, match="told"):
            next(iter(body))
        before = [*result.asked]
        body.close()
        return before, result.asked, figures()

    assert (
        ["next"],
        ["next", "close"],
        {"200": 0, "500": 1, "in progress": 0, "aborted": 0, "bytes": 0},
    ) == in_child(run)


def test_a_response_of_djangos_that_holds_all_its_content_goes_to_the_server_as_it_is(
    in_child: Callable[..., Any],
) -> None:
    """
    Django's HttpResponse is counted and passed on unchanged; a streaming one, or a subclass with its own `__iter__`, is
    counted at its end.
    """

    def run() -> list[tuple[bool, float, bytes]]:
        from django.conf import settings
        from django.http import HttpResponse, JsonResponse, StreamingHttpResponse

        settings.configure()

        class Own(HttpResponse):
            def __iter__(self) -> Iterator[bytes]:
                yield b"another"

        found = []
        for make in (
            lambda: HttpResponse("content"),
            lambda: JsonResponse({"a": 1}),
            lambda: Own("content"),
            lambda: StreamingHttpResponse([b"ab", b"c"]),
        ):
            for _ in range(2):  # a type is looked at in another way when it is known
                before = figures()["200"]
                response: Any = make()
                body = ask(response)
                counted = figures()["200"] - before
                found.append((body is response, counted, b"".join(body)))
                body.close()
        return found

    assert [
        (True, 1, b"content"),
        (True, 1, b"content"),
        (True, 1, b'{"a": 1}'),
        (True, 1, b'{"a": 1}'),
        (False, 0, b"another"),
        (False, 0, b"another"),
        (False, 0, b"abc"),
        (False, 0, b"abc"),
    ] == in_child(run)


def test_a_response_of_werkzeugs_that_holds_all_its_content_goes_to_the_server_as_it_is(
    in_child: Callable[..., Any],
) -> None:
    """
    A complete Werkzeug response is counted with its size and passed on unchanged; a streaming or customised one is
    counted at its end.
    """

    def run() -> dict[str, list[tuple[bool, float, float, bytes]]]:
        from werkzeug.wrappers import Response
        from werkzeug.wsgi import ClosingIterator

        class Own(Response):
            def iter_encoded(self) -> Iterator[bytes]:
                yield b"another"

        class Wrapped(Response):
            def get_app_iter(self, environ: Any) -> Any:
                return ClosingIterator((chunk.upper() * 2 for chunk in self.iter_encoded()), self.close)

        def parts() -> Iterator[bytes]:
            yield from (b"ab", b"c")

        made: dict[str, Callable[[], Any]] = {
            "text": lambda: Response("content"),
            "bytes": lambda: Response(b"content"),
            "empty": lambda: Response(""),
            "several parts": lambda: Response([b"ab", b"c"]),
            "a part that is text": lambda: Response([chr(228)]),
            "streamed": lambda: Response(parts()),
            "encoded in its own way": lambda: Own("content"),
            "sent in its own way": lambda: Wrapped("content"),
            "without a body": lambda: Response("content", status=304),
        }
        found: dict[str, list[tuple[bool, float, float, bytes]]] = {}
        for name, make in made.items():
            for _ in range(2):  # a type is looked at in another way when it is known
                before, given = figures(), []

                def app(environ: Any, start_response: Any, make: Any = make, given: Any = given) -> Any:
                    start_response("200 OK", [TYPE])
                    given.append(make()(environ, lambda *_: None))
                    return given[0]

                body = answer(app)
                counted = figures()["200"] - before["200"]
                received = b"".join(body)
                body.close()
                after = figures()
                assert before["200"] + 1 == after["200"]
                size = after["bytes"] - before.get("bytes", 0.0)
                found.setdefault(name, []).append((body is given[0], counted, size, received))
        return found

    assert {
        "text": [(True, 1, 7, b"content")] * 2,
        "bytes": [(True, 1, 7, b"content")] * 2,
        "empty": [(True, 1, 0, b"")] * 2,
        "several parts": [(False, 0, 3, b"abc")] * 2,
        "a part that is text": [(False, 0, 2, b"\xc3\xa4")] * 2,
        "streamed": [(False, 0, 3, b"abc")] * 2,
        "encoded in its own way": [(False, 0, 7, b"another")] * 2,
        "sent in its own way": [(False, 0, 14, b"CONTENTCONTENT")] * 2,
        "without a body": [(False, 0, 0, b"")] * 2,
    } == in_child(run)


def test_a_werkzeug_that_keeps_its_responses_in_another_way_is_read(
    in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Werkzeug responses without the attributes that we know are counted like any iterable."""
    from werkzeug import wsgi
    from werkzeug.wrappers import Response, response

    class Later(wsgi.ClosingIterator):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._closes = self.__dict__.pop("_callbacks")

        def close(self) -> None:
            for close in self._closes:
                close()

    def run() -> list[tuple[float, bytes]]:
        found = []
        for _ in range(2):
            body = answer(Response("content"))
            found.append((figures()["200"], b"".join(body)))
            body.close()
        return [*found, (figures()["bytes"], b"")]

    with monkeypatch.context() as patched:
        patched.setattr(wsgi, "ClosingIterator", Later)
        patched.setattr(response, "ClosingIterator", Later)
        assert [(0, b"content"), (1, b"content"), (14, b"")] == in_child(run)
    with monkeypatch.context() as patched:
        patched.delattr(wsgi, "ClosingIterator")
        assert [(0, b"content"), (1, b"content"), (14, b"")] == in_child(run)
