"""WebSocket sessions and other upgrades: counted as status 101, not timed, and no errors."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import live
import pytest
import websocket

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UPGRADE = {"HTTP_UPGRADE": "WebSocket", "HTTP_CONNECTION": "Upgrade"}
ALREADY_HANDLED = object()


class FailureError(Exception):
    """The exception that the test applications raise."""


def raising(error: BaseException, status: str | None = None) -> Any:
    def app(_environ: Any, start_response: Any) -> Any:
        if status is not None:
            start_response(status, [])
        raise error

    return app


def returning(result: Any, status: str | None = None) -> Any:
    def app(_environ: Any, start_response: Any) -> Any:
        if status is not None:
            start_response(status, [])
        return result

    return app


def lazily(status: str | None = None) -> Any:
    """Return an application that is a generator."""

    def app(_environ: Any, start_response: Any) -> Iterator[bytes]:
        if status is not None:
            start_response(status, [])
            yield b"body"

    return app


def send(app: Any, **more: Any) -> Any:
    """Send one request, and return what the server gets and what it raises."""
    environ: dict[str, Any] = {**more}
    setup_testing_defaults(environ)
    result: Any = None
    try:
        result = PrometheusMiddleware(app)(environ, lambda *_: lambda _data: None)
        for _ in result if hasattr(result, "__iter__") else ():
            pass
        getattr(result, "close", int)()
    except BaseException as error:
        return result, error
    return result, None


def recorded() -> dict[str, float]:
    """Return what is counted, without buckets and sums, and without what is 0."""
    return {
        f"{name}{{{','.join(value for _, value in labels)}}}": value
        for family in Collector(None).collect()
        for (name, labels), value in zip(family.samples, family.values, strict=True)
        if value and not name.endswith(("_bucket", "_sum"))
    }


SESSION = {"http_requests_total{GET,unmatched,101}": 1}


@pytest.mark.parametrize(
    "app",
    [
        raising(StopIteration()),
        returning([]),
        returning(()),
        returning(b""),
        returning(""),
        returning(None),
        returning(ALREADY_HANDLED),
        lazily(),
        returning([], "101 Switching Protocols"),
        raising(OSError("unable to receive websocket message")),
        raising(BrokenPipeError(32, "Broken pipe")),
        raising(SystemExit()),
    ],
)
def test_a_session_is_counted_as_101_and_not_timed(app: Any, in_child: Any) -> None:
    """A session that ends normally is counted as 101 alone, and the server gets what the application gives."""

    def work() -> Any:
        direct = send(app, **UPGRADE)
        return type(direct[0]).__name__, type(direct[1]), recorded()

    given, error, found = in_child(work)
    bare, raised = None, None
    try:
        bare = app({}, lambda *_: None)
    except BaseException as expected:
        raised = expected
    assert SESSION == found
    assert type(raised) is error
    assert given == ("Body" if type(bare).__name__ == "generator" else type(bare).__name__)


@pytest.mark.parametrize(
    ("app", "status", "exception"),
    [
        (raising(FailureError()), "500", "FailureError"),
        (raising(FileNotFoundError(2, "No such file")), "500", "FileNotFoundError"),
        (raising(FailureError(), "101 Switching Protocols"), "500", "FailureError"),
        (returning([b"no"], "403 Forbidden"), "403", None),
        (returning([b"ok"], "200 OK"), "200", None),
        (lazily("200 OK"), "200", None),
    ],
)
def test_an_upgrade_that_is_no_session_has_the_status_of_its_answer(
    app: Any, status: str, exception: str | None, in_child: Any
) -> None:
    """A refused upgrade has the status of its answer, and an error of the application is an error; neither is timed."""
    expected: dict[str, float] = {f"http_requests_total{{GET,unmatched,{status}}}": 1}
    if exception is not None:
        expected[f"http_request_exceptions_total{{{exception},GET,unmatched}}"] = 1
    assert expected == in_child(lambda: send(app, **UPGRADE) and recorded())


@pytest.mark.parametrize("app", [raising(StopIteration()), returning([]), raising(OSError("text alone"))])
@pytest.mark.parametrize(
    "more", [{}, {"HTTP_UPGRADE": "h2c"}, {"HTTP_UPGRADE": ""}], ids=["none", "h2c", "empty"]
)
def test_without_an_upgrade_to_a_websocket_it_is_an_error(app: Any, more: Any, in_child: Any) -> None:
    """An application that does not call start_response has failed, even if the client asks for an upgrade to HTTP/2."""
    found = in_child(lambda: send(app, **more) and recorded())
    assert found["http_requests_total{GET,unmatched,500}"] == 1
    assert found["http_request_duration_seconds_count{GET,unmatched}"] == 1


def test_a_connection_that_is_taken_over_under_gunicorn_goes_on_as_it_does(
    in_child: Any, monkeypatch: Any
) -> None:
    """gunicorn recognises a connection that the application took over by object identity, which we keep."""
    monkeypatch.setitem(
        sys.modules, "gunicorn.workers.base_async", SimpleNamespace(ALREADY_HANDLED=ALREADY_HANDLED)
    )
    assert (True, SESSION) == in_child(
        lambda: (send(returning(ALREADY_HANDLED))[0] is ALREADY_HANDLED, recorded())
    )


@pytest.mark.parametrize(("status", "expected"), [("200 OK", "101"), ("500 Error", "500")])
def test_a_server_that_has_upgraded_sends_nothing_of_the_answer(
    status: str, expected: str, in_child: Any
) -> None:
    """A session of gevent-websocket is counted as 101, but for an error that the framework answers."""

    def work() -> Any:
        send(returning([b"x"], status), **UPGRADE, **{"wsgi.websocket": object()})
        return recorded()

    assert {f"http_requests_total{{GET,unmatched,{expected}}}": 1} == in_child(work)


def test_a_session_is_in_progress_while_it_lasts(in_child: Any) -> None:
    """A session is in progress until it ends."""

    def work() -> Any:
        during: list[Any] = []

        def app(_environ: Any, _start_response: Any) -> Any:
            during.append(recorded())
            return []

        send(app, **UPGRADE)
        return during

    assert [{"http_requests_in_progress{}": 1}] == in_child(work)


def test_sessions_and_requests_of_a_route_are_one_family(in_child: Any) -> None:
    """Sessions and requests share metrics with labels and a status class, without a duplicate series."""

    def work() -> Any:
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("wsgi_prom").addHandler(handler)
        for app in (returning([]), returning([b"x"], "200 OK")):
            for upgrade in (UPGRADE, {}):
                measured = PrometheusMiddleware(
                    app, labels={"a": "b", "c": lambda _environ: "d"}, status_class=True
                )
                environ: dict[str, Any] = {**upgrade}
                setup_testing_defaults(environ)
                measured(environ, lambda *_: lambda _data: None)
        return recorded(), lines

    found, lines = in_child(work)
    assert {name: value for name, value in found.items() if name.startswith("http_requests_total")} == {
        "http_requests_total{b,d,GET,unmatched,101}": 1,
        "http_requests_total{b,d,GET,unmatched,200}": 2,
        "http_requests_total{b,d,GET,unmatched,500}": 1,
    }
    assert [] == lines


def session(server: live.LiveServer, path: str, *, fails: bool = False) -> None:
    """Hold one session, and end it normally, unless the application *fails* in it."""
    client = websocket.create_connection(server.url.replace("http", "ws") + path, timeout=30)
    try:
        client.send("x")
        if not fails:
            assert client.recv() == "x"
    finally:
        client.close()


def seen(server: live.LiveServer) -> tuple[Any, ...]:
    """Return what is counted by route and status, what is timed by route, the exceptions, and what is in progress."""
    samples = server.samples()
    by_name: Callable[..., Any] = lambda name, *labels: {  # noqa: E731
        tuple(dict(found)[label] for label in labels): value
        for found, value in live.labelled(samples, name).items()
    }
    return (
        by_name("http_requests_total", "route", "status"),
        by_name("http_request_duration_seconds_count", "route"),
        by_name("http_request_exceptions_total", "route", "exception"),
        by_name("http_requests_in_progress"),
    )


@pytest.mark.parametrize(
    ("start", "path", "failing"),
    [
        (lambda: live.gunicorn("websockets:app", "--threads", "8", workers=1), "/echo", "/fail"),
        (lambda: live.gunicorn("websockets:app", "-k", "gevent", workers=1), "/echo", "/fail"),
        (
            lambda: live.gunicorn(
                "websockets:app",
                "-k",
                "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
                workers=1,
            ),
            "/gevent",
            None,
        ),
        (
            lambda: live.uwsgi("--http-websockets", workers=1, app="websockets:app"),
            "/uwsgi",
            "/uwsgi/fail",
        ),
    ],
    ids=["gunicorn gthread", "gunicorn gevent", "gevent-websocket", "uWSGI"],
)
def test_sessions_of_a_real_server(start: Any, path: str, failing: str | None) -> None:
    """A real server counts two normal sessions, a failed one, and a request between them."""
    with start() as server:
        session(server, path)
        server.get("/plain")
        session(server, path)
        if failing is not None:
            session(server, failing, fails=True)
        expected = (
            {(path, "101"): 2, ("/plain", "200"): 1, **({(failing, "500"): 1} if failing else {})},
            {("/plain",): 1},
            {(failing, "ValueError"): 1} if failing else {},
            {(): 0},
        )
        assert expected == live.eventually(lambda: seen(server), lambda found: found == expected)
