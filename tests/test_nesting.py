"""Middlewares around each other, a hook's and explicit ones: which one measures a request, and what the page shows."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest
from samples import may_happen

from wsgi_prom import PrometheusMiddleware
from wsgi_prom.merge.collector import Collector
from wsgi_prom.middleware import wrap_for_hook
from wsgi_prom.store import unlocked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What an explicit middleware is given below, and what its requests are counted as then.
SHOP = {"prefix": "shop_", "labels": {"env": "prod"}, "exclude": ["/skip"], "buckets": (1.0,)}
SHOWN = {
    "shop_http_requests_total{prod,GET,/app,200}": 1,
    "shop_http_request_duration_seconds_count{prod,GET,/app}": 1,
    "shop_http_requests_in_progress{}": 0,
}
UNSEEN = {
    "http_requests_total{GET,unmatched,404}": 1,
    "http_request_duration_seconds_count{GET,unmatched}": 1,
    "http_requests_in_progress{}": 0,
}

shop = partial(PrometheusMiddleware, **SHOP)


def app(environ: dict[str, Any], start_response: Any) -> Any:
    environ["wsgi_prom.route"] = "/app"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def missing(_environ: Any, start_response: Any) -> Any:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"nothing here"]


def send(app: Any, path: str = "/", **more: Any) -> bytes:
    """Send one request as a server does, and return the body."""
    environ: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", **more}
    setup_testing_defaults(environ)
    result = app(environ, lambda *_: lambda _data: None)
    try:
        return b"".join(result)
    finally:
        getattr(result, "close", int)()


def page(path: Path | None = None) -> dict[str, float]:
    """Return what is shown of requests, without buckets, sums and sizes."""
    return {
        f"{name}{{{','.join(value for _, value in labels)}}}": value
        for family in Collector(path).collect()
        for (name, labels), value in zip(family.samples, family.values, strict=True)
        if "http_request" in name and not name.endswith(("_bucket", "_sum", "_size_bytes_count"))
        if value or not may_happen(name)
    }


def another_s(inner: Any) -> Any:
    """Return a middleware that somebody else wrote, around *inner*."""

    def middleware(environ: Any, start_response: Any) -> Any:
        return inner(environ, start_response)

    return middleware


def direct() -> Any:
    return shop(app)


def idiom() -> Any:
    from flask import Flask

    flask_app: Any = Flask("shop")
    flask_app.get("/app")(lambda: "ok")
    flask_app.wsgi_app = shop(flask_app.wsgi_app)
    return lambda environ, start_response: flask_app({**environ, "PATH_INFO": "/app"}, start_response)


def inside_proxy_fix() -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    return ProxyFix(shop(app))


def inside_whitenoise() -> Any:
    from whitenoise import WhiteNoise

    return WhiteNoise(shop(app))


def inside_a_dispatcher() -> Any:
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    return DispatcherMiddleware(shop(app), {"/other": PrometheusMiddleware(app, prefix="other_")})


def inside_a_copy_of_environ() -> Any:
    inner = shop(app)
    return lambda environ, start_response: inner(dict(environ), start_response)


def inside_a_thread() -> Any:
    inner = shop(app)

    def outer(environ: Any, start_response: Any) -> Any:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(inner(environ, start_response)))
        thread.start()
        thread.join()
        return results[0]

    return outer


def inside_a_greenlet() -> Any:
    from gevent import spawn

    inner = shop(app)
    return lambda environ, start_response: spawn(inner, environ, start_response).get()


def twice_by_hand() -> Any:
    return PrometheusMiddleware(shop(app), exclude=["/other"])


def around_another_hook() -> Any:
    return shop(wrap_for_hook(app))


def streamed() -> Any:
    def stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    return shop(stream)


ARRANGEMENTS = [direct, idiom, inside_proxy_fix, inside_whitenoise, inside_a_dispatcher, inside_a_copy_of_environ,
                inside_a_thread, inside_a_greenlet, around_another_hook, streamed]  # fmt: skip
# What is in progress in the others that are made: a hook's before it can know of one around it.
GAUGES = {
    inside_a_dispatcher: {"other_http_requests_in_progress{}": 0},
    around_another_hook: {"http_requests_in_progress{}": 0},
}


@pytest.mark.parametrize("make", ARRANGEMENTS)
def test_an_explicit_middleware_measures_and_not_the_hook_s(make: Any, in_child: Any) -> None:
    """
    An explicit middleware inside a hook's measures the request with its own labels, prefix and buckets; the hook's
    shows no series.
    """

    def work() -> Any:
        measured = wrap_for_hook(make())
        return send(measured), page()

    body, found = in_child(work)
    assert body == b"ok"
    assert SHOWN | GAUGES.get(make, {}) == found


@pytest.mark.parametrize("make", [lambda: wrap_for_hook(twice_by_hand()), twice_by_hand])
def test_of_two_explicit_middlewares_the_inner_one_measures(make: Any, in_child: Any) -> None:
    """Of two explicit middlewares the inner one measures, with its own settings."""

    def work() -> Any:
        send(make())
        return page()

    assert {**SHOWN, "http_requests_in_progress{}": 0} == in_child(work)


@pytest.mark.parametrize("make", [direct, inside_a_copy_of_environ, inside_a_thread, around_another_hook])
def test_what_an_explicit_middleware_excludes_is_not_counted_by_a_hook_s(make: Any, in_child: Any) -> None:
    """A path that an explicit middleware excludes is not counted by a hook's, whichever is outside."""

    def work() -> Any:
        measured = wrap_for_hook(make())
        send(measured, "/skip")
        return page()

    assert {"shop_http_requests_in_progress{}": 0, **GAUGES.get(make, {})} == in_child(work)


def test_the_metrics_of_an_explicit_middleware_are_not_counted(in_child: Any) -> None:
    """A scrape of the inner middleware's metrics_path is not measured by the outer one."""

    def work() -> Any:
        measured = wrap_for_hook(PrometheusMiddleware(shop(app), metrics_path="/metrics"))
        body = send(measured, "/metrics", REMOTE_ADDR="127.0.0.1")
        return b"shop_http_requests_in_progress" in body, page()

    expected = {"shop_http_requests_in_progress{}": 0, "http_requests_in_progress{}": 0}
    assert (True, expected) == in_child(work)


def test_the_readers_that_an_explicit_middleware_admits_are_all(in_child: Any, monkeypatch: Any) -> None:
    """A hook's middleware does not serve the metrics to clients that the explicit one would refuse."""

    def work() -> Any:
        monkeypatch.setenv("WSGI_PROM_METRICS_PATH", "/metrics")
        strict = PrometheusMiddleware(app, allow="10.0.0.0/8")
        measured = wrap_for_hook(another_s(strict))
        return send(measured, "/metrics", REMOTE_ADDR="127.0.0.1")

    assert b"Clients of this address are not answered.\n" == in_child(work)


def test_a_hook_s_middleware_answers_with_the_metrics_where_nobody_else_does(
    in_child: Any, monkeypatch: Any
) -> None:
    """A hook's middleware serves the metrics_path of the environment if no explicit middleware sees the request."""

    def work() -> Any:
        monkeypatch.setenv("WSGI_PROM_METRICS_PATH", "/metrics")
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        measured = wrap_for_hook(DispatcherMiddleware(missing, {"/shop": shop(app)}))
        return send(measured, "/metrics", REMOTE_ADDR="127.0.0.1"), page()

    body, found = in_child(work)
    assert b"shop_http_requests_in_progress 0" in body
    assert {"shop_http_requests_in_progress{}": 0} == found


def test_a_hook_s_middleware_measures_what_no_explicit_one_sees(in_child: Any) -> None:
    """
    A hook's middleware measures what no explicit one sees: a dispatcher's own answer, an earlier exception, another
    application.
    """

    def work() -> Any:
        from werkzeug.middleware.dispatcher import DispatcherMiddleware

        dispatcher = DispatcherMiddleware(missing, {"/shop": shop(app)})

        def failing(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/fail":
                raise ValueError("before")
            return dispatcher(environ, start_response)

        measured = wrap_for_hook(failing)
        send(measured, "/shop/1")
        before = page()
        send(measured, "/nowhere")
        with pytest.raises(ValueError, match="before"):
            send(measured, "/fail")
        return before, page()

    before, after = in_child(work)
    assert SHOWN == before
    assert {
        **SHOWN,
        **UNSEEN,
        "http_requests_total{GET,unmatched,500}": 1,
        "http_request_duration_seconds_count{GET,unmatched}": 2,
        "http_request_exceptions_total{ValueError,GET,unmatched}": 1,
    } == after


@pytest.mark.parametrize("make", [lambda: missing, lambda: wrap_for_hook(missing)])
def test_an_application_without_an_explicit_middleware_is_measured_by_the_hook_s(
    make: Any, in_child: Any
) -> None:
    """
    Without an explicit middleware the hook's measures once, even with two hooks, and shows requests in progress from
    the start.
    """

    def work() -> Any:
        measured = wrap_for_hook(make())
        before = page()
        send(measured)
        return before, page()

    assert ({"http_requests_in_progress{}": 0}, UNSEEN) == in_child(work)


def test_an_exception_after_the_inner_application_does_not_count_twice(in_child: Any) -> None:
    """A request that the inner middleware has measured is not counted again if an outer layer raises."""

    def work() -> Any:
        inner = shop(app)

        def outer(environ: Any, start_response: Any) -> Any:
            inner(environ, start_response)
            raise ValueError("after")

        with pytest.raises(ValueError, match="after"):
            send(wrap_for_hook(outer))
        return page()

    assert SHOWN == in_child(work)


@pytest.mark.parametrize("hooked", [False, True], ids=["by hand", "under a hook"])
@pytest.mark.parametrize("copied", [False, True], ids=["the same environ", "copies"])
def test_an_application_that_is_called_twice_is_counted_twice(
    copied: bool, hooked: bool, in_child: Any
) -> None:
    """An application that other middleware calls twice for one request is counted twice, with a hook and without."""

    def work() -> Any:
        inner = shop(app)

        def twice(environ: Any, start_response: Any) -> Any:
            inner(dict(environ) if copied else environ, start_response)
            return inner(dict(environ) if copied else environ, start_response)

        send(wrap_for_hook(twice) if hooked else twice)
        return page()

    twice = {name: value and 2 for name, value in SHOWN.items()}
    assert twice == in_child(work)


def test_an_application_that_calls_itself_is_one_request(in_child: Any) -> None:
    """
    An application that calls itself with copies of environ, as for a batch, is counted once, as the client's request.
    """

    def work() -> Any:
        measured: Any = None

        def batch(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/batch":
                for path in ("/a", "/skip", "/b"):
                    measured({**environ, "PATH_INFO": path}, lambda *_: None)
            return app(environ, start_response)

        measured = shop(batch)
        send(measured, "/batch")
        send(wrap_for_hook(another_s(measured)), "/batch")
        return page()

    assert {name: value and 2 for name, value in SHOWN.items()} == in_child(work)


@pytest.mark.parametrize(
    "wrapper", [FileWrapper, lambda filelike, _size=8192: filelike], ids=["class", "function"]
)
def test_a_file_goes_to_the_server_as_the_same_object(wrapper: Any, in_child: Any) -> None:
    """The result of file_wrapper passes through both middlewares as the same object, and its size is counted once."""

    def work() -> Any:
        made: list[Any] = []

        def file(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [("Content-Type", "text/plain")])
            made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"file")))
            return made[0]

        inner = shop(file)
        environ: dict[str, Any] = {"wsgi.file_wrapper": wrapper}
        setup_testing_defaults(environ)
        result: Any = wrap_for_hook(another_s(inner))(environ, lambda *_: lambda _data: None)
        same = result is made[0]
        result.close()
        sizes = [
            value
            for family in Collector(None).collect()
            for (name, _), value in zip(family.samples, family.values, strict=True)
            if name.endswith("response_size_bytes_sum")
        ]
        return same, sizes

    assert (True, [4.0]) == in_child(work)


def test_the_time_in_a_queue_is_observed_once(in_child: Any) -> None:
    """Only the middleware that measures the request observes its queue time."""

    def work() -> Any:
        inner = PrometheusMiddleware(app)
        measured = wrap_for_hook(another_s(inner))
        send(measured, HTTP_X_REQUEST_START=f"t={time.time()}")
        return page()["http_request_queue_seconds_count{}"]

    assert in_child(work) == 1


def test_a_request_is_in_progress_once(in_child: Any) -> None:
    """A request is in progress once while the application works, though both middlewares share the gauge."""

    def work() -> Any:
        during: list[float] = []

        def looking(environ: Any, start_response: Any) -> Any:
            during.append(page()["http_requests_in_progress{}"])
            return app(environ, start_response)

        inner = PrometheusMiddleware(looking, labels={"env": "prod"})
        send(wrap_for_hook(another_s(inner)))
        return during, page()["http_requests_in_progress{}"]

    assert ([1.0], 0.0) == in_child(work)


@pytest.mark.parametrize("locked", [True, False], ids=["with a lock", "without"])
def test_threads_lose_nothing(locked: bool, in_child: Any, shared: Any) -> None:
    """Each request of each thread is counted once, and none stays in progress."""

    def work() -> Any:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
        sys.setswitchinterval(1e-6)
        unlocked.needs_lock = lambda: locked
        measured = wrap_for_hook(another_s(PrometheusMiddleware(app, labels={"env": "prod"})))
        threads = [threading.Thread(target=lambda: [send(measured) for _ in range(2000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = page(shared)
        return found["http_requests_total{prod,GET,/app,200}"], found["http_requests_in_progress{}"]

    assert (8000, 0) == in_child(work)
