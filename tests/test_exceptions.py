"""
Exceptions that a framework answers itself: unexpected ones are counted once, with the route, handled ones are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import live
import pytest
from labels import application, environ_of, labels
from test_frameworks import FRAMEWORKS, by_webob, by_werkzeug, copied
from test_middleware import all_recorded

from wsgi_prom import PrometheusMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable


def exceptions() -> dict[str, float]:
    """Return the exceptions that this process has counted, as `exception,method,route`."""
    name = "http_request_exceptions_total{"
    return {
        key.removeprefix(name)[:-1]: value for key, value in all_recorded().items() if key.startswith(name)
    }


FAILING = {
    "flask": {"ValueError,GET,/fail": 1, "ValueError,GET,/api/v1/fail": 1},
    "bottle": {"ValueError,GET,/fail": 1, "ValueError,GET,/mounted/fail": 1},
    "django": {"ValueError,GET,/fail/": 1},
    "pyramid": {"ValueError,GET,/fail": 1},
    "falcon": {"ValueError,GET,/fail": 1},
}


@pytest.mark.parametrize("between", [lambda app: app, copied, by_webob, by_werkzeug])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_exception_that_no_handler_takes_is_counted_once(
    framework: str, between: Callable[[Any], Any], in_child: Callable[..., Any]
) -> None:
    """An unhandled exception is counted once; 404s and refusals, which frameworks raise too, are not counted."""

    def work() -> Any:
        module = application(f"routes_{framework}")
        labels(between(module.app), module.REQUESTS)
        return exceptions()

    found = in_child(work)
    assert FAILING[framework] == {
        name: value for name, value in found.items() if "URLDecodeError" not in name
    }


def answered(app: Any, path: str) -> str:
    statuses: list[str] = []

    def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Any:
        statuses.append(status)

    result: Any = PrometheusMiddleware(app)(environ_of("GET", path), start_response)
    b"".join(result)
    getattr(result, "close", int)()
    return statuses[-1]


def test_an_exception_that_an_error_handler_takes_is_none(in_child: Callable[..., Any]) -> None:
    """An exception with a handler of its own is not counted; a handler for status 500 does not make it expected."""

    def work() -> Any:
        from flask import Flask

        app = Flask("shop")

        @app.get("/<name>")
        def view(name: str) -> str:
            raise {"expected": KeyError, "not": ValueError}[name]

        app.register_error_handler(KeyError, lambda _error: ("none of that", 404))
        app.register_error_handler(500, lambda _error: ("sorry", 503))
        return [answered(app, path) for path in ("/expected", "/not", "/not")], exceptions()

    assert (
        ["404 NOT FOUND", "503 SERVICE UNAVAILABLE", "503 SERVICE UNAVAILABLE"],
        {"ValueError,GET,/<name>": 2},
    ) == in_child(work)


def test_an_exception_view_of_pyramids_is_an_answer(in_child: Callable[..., Any]) -> None:
    """An exception that has a view is not counted; any other reaches the middleware and is."""

    def work() -> Any:
        from pyramid.config import Configurator
        from pyramid.response import Response

        def fail(request: Any) -> Any:
            raise {"expected": KeyError, "not": ValueError}[request.matchdict["name"]]

        config = Configurator()
        config.include("wsgi_prom.frameworks.pyramid")
        config.add_route("named", "/{name}")
        config.add_view(fail, route_name="named")
        config.add_exception_view(lambda _error, _request: Response(status=409), context=KeyError)
        app = config.make_wsgi_app()
        first = answered(app, "/expected")
        with pytest.raises(ValueError):
            answered(app, "/not")
        return first, exceptions()

    assert ("409 Conflict", {"ValueError,GET,/{name}": 1}) == in_child(work)


def test_an_exception_is_counted_once_where_it_is_raised_again(in_child: Callable[..., Any]) -> None:
    """An exception that Flask or Django signals and then lets through is counted once."""

    def work() -> Any:
        flask, django = application("routes_flask"), application("routes_django")
        flask.inner.config["PROPAGATE_EXCEPTIONS"] = True
        app = django.make(DEBUG_PROPAGATE_EXCEPTIONS=True)
        for target, path in ((flask.app, "/fail"), (app, "/fail/")):
            with pytest.raises(ValueError, match="asked to fail"):
                answered(target, path)
        return exceptions(), all_recorded()["http_requests_in_progress{}"]

    assert ({"ValueError,GET,/fail": 1, "ValueError,GET,/fail/": 1}, 0) == in_child(work)


def test_a_falcon_handler_answers_as_falcon_does(in_child: Callable[..., Any]) -> None:
    """Our Falcon handler counts and answers as Falcon itself does; without it nothing is counted."""

    def work() -> Any:
        import falcon

        from wsgi_prom.frameworks.falcon import RouteMiddleware, count_exception

        class Failing:
            def on_get(self, _req: Any, _resp: Any) -> None:
                raise ValueError("asked to fail")

        found = []
        for handled in (False, True):
            app = falcon.App(middleware=[RouteMiddleware()])
            app.add_route("/fail", Failing())
            if handled:
                app.add_error_handler(Exception, count_exception)
            environ = environ_of("GET", "/fail")
            result: Any = PrometheusMiddleware(app)(environ, lambda *given: found.append(given))
            found.append((list(result), environ["wsgi.errors"].getvalue().count("ValueError: asked to fail")))
        return found, exceptions()

    (first, body, second, other_body), counted = in_child(work)
    assert (first, body) == (second, other_body)
    assert {"ValueError,GET,/fail": 1} == counted


def test_an_error_that_start_response_is_told_of_is_counted(in_child: Callable[..., Any]) -> None:
    """
    An exc_info that an application without a framework gives to start_response is counted; a redirect that was raised
    is not.
    """

    def work() -> Any:
        import sys

        def app(environ: Any, start_response: Any) -> Any:
            try:
                _ = 1 / 0
            except ZeroDivisionError:
                start_response(environ["test.status"], [], sys.exc_info())
            return [b""]

        for status in ("500 Internal Server Error", "302 Found"):
            list(
                PrometheusMiddleware(app)(environ_of("GET", "/", **{"test.status": status}), lambda *_: None)
            )
        return exceptions()

    assert {"ZeroDivisionError,GET,unmatched": 1} == in_child(work)


def test_a_real_server_counts_what_flask_answers() -> None:
    """One scrape of a gunicorn with two workers has each exception beside its 500."""
    with live.gunicorn("routes_flask:app", workers=2) as server:
        for _ in range(6):
            assert 500 == server.get("/fail").status

        def counted() -> Any:
            return list(live.labelled(server.samples(), "http_request_exceptions_total").values())

        assert [6.0] == live.eventually(counted, [6.0].__eq__)
